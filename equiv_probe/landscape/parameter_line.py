"""The three losses along a line in the space of the weights: to a perturbation, down a gradient, to a checkpoint.

>>> import equiv_probe as ep
>>> weights = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
>>> def loss():  # at the bottom of L_equiv, on a slope of L_mean
...     mean, equiv = weights.sum(), (weights - torch.tensor([1.0, 2.0])).square().sum()
...     return mean + equiv, mean, equiv
>>> line = ep.analysis.along_line(loss, parameters=[weights], seed=1)
>>> print(f"{line.exponent('equiv').power.value:.3f} {line.exponent('mean').power.value:.3f} {weights.tolist()}")
2.000 1.000 [1.0, 2.0]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from equiv_probe.deprecation import renamed
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.curvature_products import CurvatureProducts
from equiv_probe.landscape.decomposed_loss import (
    LOSSES,
    pieces_of,
    protocol_of,
    require_same_twice,
    several,
    space_of,
)
from equiv_probe.landscape.line_record import Line
from equiv_probe.landscape.orbit_loss import OrbitLoss
from equiv_probe.progress import progress as progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from equiv_probe.landscape.decomposed_loss import DecomposedLoss
    from equiv_probe.landscape.parameter_groups import Block
    from equiv_probe.landscape.parameter_space import ParameterSpace

    Values = NDArray[np.float64]

DIRECTIONS = ("random", "gradient", "gradient-mean", "gradient-equiv")
ROUNDINGS = 4


@renamed(over="blocks")
def along_line(
    orbit_loss: DecomposedLoss | Sequence[DecomposedLoss],
    direction: str | Mapping[str, Tensor] | Tensor = "random",
    steps: Sequence[float] | None = None,
    *,
    to: Mapping[str, Tensor] | None = None,
    parameters: Block | None = None,
    blocks: str | None = None,
    seed: int = 0,
    name: str = "",
    progress: bool = True,
) -> Line:
    """``L_total``, ``L_mean`` and ``L_equiv`` at ``θ + t d``; afterwards the weights have their old bits.

    Buffers are not moved: statistics of normalisation layers stay those of the model as it is.

    Args:
        orbit_loss: a callable without arguments that gives ``(total, mean, equiv)`` at the current weights, such as
            :class:`equiv_probe.analysis.OrbitLoss`; or several that differ in their rotations alone, whose mean is
            taken and whose scatter is the standard error.
        direction: ``"random"``, normal numbers of which every filter is as long as the filter that it moves (Li et al.
            2018), so that t is a relative displacement; ``"gradient"``, ``"gradient-mean"`` or ``"gradient-equiv"``,
            down the gradient of L_total, L_mean or L_equiv, as long as all weights together; tensors by name, or a
            vector ``(size,)``, as they are.
        steps: the t, 0 is added where it is not among them; None is 0 and ±10⁻⁵…1 in quarters of a decade, or 0…1 in
            twentieths towards ``to``.
        to: a state dict in the place of a direction: t = 1 is there.
        parameters: the weights: names of parameters or modules among those that the loss names, or patterns of them
            such as ``"layers.0.*"``; modules; tensors; None takes all that the loss names.
        blocks: ``"structures"`` evaluates structure by structure and gives standard errors over them, where the loss
            has ``pieces``; their sizes count as part of the draw.
        seed: of the random direction, and of the changes that show what rounding does.
        name: of the model, for the page and the file.
        progress: say how far it is, once it takes two seconds.

    Returns:
        The losses and their exponents, which print and plot.

    Raises:
        EquivProbeError: a direction that is not known or is zero, no weights, a loss that changes between calls.
    """
    given = several(orbit_loss)
    if blocks not in {None, "structures"}:
        raise EquivProbeError(f"blocks={blocks!r}", '"structures" or None')
    space = space_of(given[0], parameters)
    first = pieces_of(given[0])[0]
    with torch.enable_grad():
        known = [which for which, value in zip(LOSSES, first(), strict=True) if bool(value.detach().isfinite())]
    require_same_twice(first, LOSSES if "equiv" not in known else known)  # without labels there is L_equiv alone
    if to is not None:
        vector, which = space.of_names(to, missing="error") - space.here, "to a checkpoint"
    else:
        vector, which = direction_of(given, space, direction, seed)
    if not bool(vector.isfinite().all()) or not bool(vector.any()):
        raise EquivProbeError(f"the direction {which!r}, which is zero or not finite", "one that moves the weights")
    chosen = _steps(steps, towards=to is not None)
    units = [unit for loss in given for unit in ([pieces_of(loss)] if blocks is None else _structures(loss))]
    samples, floors = _measured(units, space, vector, chosen, seed=seed, shown=progress)
    if blocks == "structures":  # n × a structure's part of the sum is what it is a mean of
        samples, floors = samples * (len(units) // len(given)), floors * (len(units) // len(given))
    # Of the losses where the line begins: far along it they may be anything, even infinite.
    least = 4 * torch.finfo(torch.float64).eps * np.nanmax(np.abs(samples[chosen == 0].mean((0, 1))))
    return Line.of(
        chosen,
        samples,
        np.maximum(floors.mean(1).max(0), least),
        direction=which,
        blocks=blocks or ("rotations" if len(given) > 1 else ""),
        sets=len(given),
        length=float(vector.norm() / space.here.norm()),
        seed=seed,
        name=name,
        protocol={"parameters": space.size, **protocol_of(given, space)},
    )


def _steps(steps: Sequence[float] | None, *, towards: bool) -> Values:
    if steps is not None:
        return np.unique(np.append(np.asarray(steps, dtype=np.float64), 0.0))
    scale = 10 ** (np.arange(-20, 1) / 4)
    return np.linspace(0, 1, 21) if towards else np.concatenate([-scale[::-1], [0.0], scale])


def _measured(
    units: list[list[DecomposedLoss]], space: ParameterSpace, vector: Tensor, chosen: Values, *, seed: int, shown: bool
) -> tuple[Values, Values]:
    """The losses of units at each step, ``(T, U, 3)``, and what rounding of the weights does to them, ``(K, U, 3)``."""
    samples, floors = np.empty((len(chosen), len(units), 3)), np.empty((ROUNDINGS, len(units), 3))
    generator = torch.Generator().manual_seed(seed + 1)
    with space.walking() as walk, progress_bar(len(chosen) + ROUNDINGS, "line", shown=shown) as advance:
        for row, t in enumerate(chosen):
            walk.to(float(t) * vector)
            samples[row] = [losses_now(unit) for unit in units]
            advance(1)
        # Every weight by one unit in its last place, up or down: what rounding alone may change.
        ulps = torch.cat([torch.full((p.numel(),), torch.finfo(p.dtype).eps) for p in space.tensors])
        for row in range(ROUNDINGS):
            signs = torch.randn(space.size, generator=generator).sign()
            walk.to((ulps * signs).to(space.here) * walk.start)
            floors[row] = np.abs(np.array([losses_now(unit) for unit in units]) - samples[chosen == 0][0])
            advance(1)
    return samples, floors


def direction_of(
    given: Sequence[DecomposedLoss], space: ParameterSpace, direction: str | Mapping[str, Tensor] | Tensor, seed: int
) -> tuple[Tensor, str]:
    """The vector ``(size,)`` that is meant by a direction of :func:`along_line`, and its name.

    Raises:
        EquivProbeError: a name that is none, or a vector of another length.
    """
    if isinstance(direction, torch.Tensor):
        if tuple(direction.shape) != (space.size,):
            raise EquivProbeError(f"a direction of shape {tuple(direction.shape)}", f"({space.size},)")
        return direction.detach().to(space.device, space.dtype), "given"
    if isinstance(direction, Mapping):
        return space.of_names(direction, missing="zero"), "given"
    if direction == "random":
        return space.filter_normalised(space.random(torch.Generator().manual_seed(seed))), direction
    if direction not in DIRECTIONS:
        raise EquivProbeError(f"direction={direction!r}", ", ".join(DIRECTIONS), "or tensors by name, or to=state_dict")
    which = LOSSES[["gradient", "gradient-mean", "gradient-equiv"].index(direction)]
    down = torch.stack([-CurvatureProducts(loss, space).gradient(which) for loss in given]).mean(0)
    return down * (space.here.norm() / down.norm()), direction


def _structures(loss: DecomposedLoss) -> list[list[DecomposedLoss]]:
    """The smallest pieces that a loss has."""
    if not hasattr(loss, "pieces"):
        raise EquivProbeError("blocks='structures' and a loss without pieces", "ep.analysis.OrbitLoss, or pieces()")
    pieces = loss.pieces(1) if isinstance(loss, OrbitLoss) else pieces_of(loss)
    return [[piece] for piece in pieces]


def losses_now(pieces: list[DecomposedLoss]) -> Values:
    """The sum of the three losses of pieces now."""
    found = torch.zeros(3, dtype=torch.float64)
    # Forces may be derivatives, so the graph is kept as the loss wants it; it is gone with the piece.
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        for piece in pieces:
            found += torch.stack([value.detach().double().cpu() for value in piece()])
    return found.numpy()
