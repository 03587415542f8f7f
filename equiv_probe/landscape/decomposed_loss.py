"""A decomposed loss as a function of the weights: what curvature and lines take, which weights, and what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.parameter_groups import block_of
from equiv_probe.landscape.parameter_space import ParameterSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from equiv_probe.landscape.parameter_groups import Block

Which = Literal["total", "mean", "equiv"]
LOSSES: tuple[Which, ...] = ("total", "mean", "equiv")
SAME = 1e-4
"""Of the loss, that it may differ by between two calls."""
SAME_EQUIV = 1e-3
"""Of ``L_equiv`` itself."""
ROUNDING = (10 * torch.finfo(torch.float32).eps) ** 2
"""Of the loss, what rounding of outputs makes of ``L_equiv``, their variance."""
Three = tuple["Tensor", "Tensor", "Tensor"]


class DecomposedLoss(Protocol):
    """A loss as a function of the weights: called, it returns ``(total, mean, equiv)``, 0-d, with graph.

    It must be a deterministic function of the weights: fixed structures, fixed rotations, fixed noise. Optional:

    * ``parameters``: the weights, by name.
    * ``pieces()``: losses of the same kind whose sum it is.
    * ``outputs()`` and ``of_outputs(outputs)``: the same in two steps, for Gauss–Newton matrices.
    """

    def __call__(self) -> Three:
        """The three losses at the weights as they are now."""


def space_of(loss: DecomposedLoss, parameters: Block | None) -> ParameterSpace:
    """The weights that are given, or those that the loss names.

    Raises:
        EquivProbeError: neither is there, or a name that is none of the loss's.
    """
    known = getattr(loss, "parameters", None)
    known = known() if callable(known) else known
    if parameters is None:
        parameters = known
    if parameters is None:
        raise EquivProbeError("a loss that does not name its weights", "the weights", "parameters=model")
    return ParameterSpace(block_of(parameters, known if isinstance(known, Mapping) else {}))


def pieces_of(loss: DecomposedLoss) -> list[DecomposedLoss]:
    """The pieces whose sum a loss is; itself where it has none."""
    pieces: Callable[[], Iterable[DecomposedLoss]] | None = getattr(loss, "pieces", None)
    return [loss] if pieces is None else list(pieces())


def several(orbit_loss: DecomposedLoss | Sequence[DecomposedLoss]) -> list[DecomposedLoss]:
    """One loss, or several, as a list."""
    return [orbit_loss] if callable(orbit_loss) else list(orbit_loss)


def protocol_of(given: Sequence[DecomposedLoss], space: ParameterSpace, **method: Any) -> dict[str, Any]:
    """Sets of rotations and structures, as far as they are known, the method, precision, and versions, for a report."""
    known = {name: getattr(given[0], name, None) for name in ("structures", "replicates")}
    return {
        "sets of rotations": len(given),
        **{what: number for what, number in known.items() if isinstance(number, int)},
        **method,
        "precision": str(space.tensors[0].dtype).removeprefix("torch."),
        "equiv-probe": metadata.version("equiv-probe"),
        "torch": torch.__version__,
    }


def require_same_twice(loss: DecomposedLoss, losses: Sequence[Which]) -> None:
    """See that a loss is a function of the weights.

    Raises:
        EquivProbeError: two calls in a row differ by more than rounding, or are not finite.
    """
    asked = [LOSSES.index(which) for which in losses]
    with torch.enable_grad():
        first, second = (torch.stack([value.detach().double().cpu() for value in loss()]) for _ in range(2))
    if not bool(first[asked].isfinite().all()):
        labels = "" if not bool(first[2].isfinite()) else 'losses=("equiv",), which needs no labels'
        raise EquivProbeError(f"losses {first.tolist()}", "finite numbers at the weights as they are", labels)
    # L_equiv may be all noise where it is a small part of the loss: it is compared with itself.
    largest = float(first[asked].abs().max())
    limits = [SAME * largest, SAME * largest, max(SAME_EQUIV * abs(float(first[2])), ROUNDING * largest)]
    if any(abs(float(first[k] - second[k])) > limits[k] for k in asked):
        raise EquivProbeError(
            f"a loss that is {first[asked].tolist()} and then {second[asked].tolist()}",
            "the same at the same weights",
            "fix its rotations and its noise, and switch dropout off: model.eval()",
        )
