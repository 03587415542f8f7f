"""The gradients of ``L_mean`` and ``L_equiv``: how long they are, and the angle between them, by group of parameters.

>>> import torch, equiv_probe as ep
>>> model = torch.nn.Linear(3, 3, bias=False).double()
>>> x = torch.randn(8, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
>>> schema = ep.Schema(inputs={"pos": ep.vector}, outputs={"forces": ep.vector})
>>> loss = ep.analysis.OrbitLoss(model, x, 2 * x, schema, ep.RotationPlan("tetrahedral", replicates=6))
>>> found = ep.analysis.gradients(loss)
>>> abs(found.cosine.value) < 1e-6  # of a linear model the two are orthogonal: one is the trace, the other the rest
True
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import torch

from equiv_probe.deprecation import warn
from equiv_probe.landscape.gradient_sums import GradientSums, products
from equiv_probe.landscape.measured_gradients import Gradients
from equiv_probe.landscape.parameter_groups import grouped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from equiv_probe.landscape.orbit_loss import OrbitLoss
    from equiv_probe.landscape.orbit_parts import Decomposed
    from equiv_probe.landscape.parameter_groups import Groups


P = ParamSpec("P")
R = TypeVar("R")


def _with_old_names(function: Callable[P, R]) -> Callable[P, R]:
    """``over`` is now ``blocks``, and a number of them ``n_blocks``."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = kwargs
        for old, new in (("blocks", "n_blocks"), ("over", "blocks")):
            if old in given and (old == "over" or isinstance(given[old], int)):
                warn(f"the argument {old} of gradients() is now called {new}")
                given[new] = given.pop(old)
        return function(*args, **kwargs)

    return call


@_with_old_names
def gradients(
    loss: OrbitLoss,
    groups: Groups = None,
    *,
    blocks: Literal["rotations", "structures"] = "rotations",
    n_blocks: int | None = None,
) -> Gradients:
    """The gradients of ``L_mean`` and ``L_equiv``: norms, their ratio, and the cosine of the angle between them.

    Norms and products come from different blocks of rotations, so that the noise of a gradient does not lengthen it;
    see :mod:`equiv_probe.landscape.gradient_sums`. Two gradients a block are held in memory at once.

    Args:
        loss: the decomposed loss, with at least two replicates a block; its ``.parameters`` are differentiated by.
        groups: a function from a parameter's name to its group (None leaves it out), an optimizer or its
            ``param_groups``; None takes top-level submodules. There is always a group ``"all"``.
        blocks: of ``"rotations"``: the norm of the gradient of the loss on these data. Of ``"structures"``: that of the
            population they are drawn from, so the noise of the data is left out too; it needs
            ``OrbitLoss(..., per_structure=True)``.
        n_blocks: how many; None is as many as there can be, up to eight. Error bars need three.

    Raises:
        EquivProbeError: too few replicates or structures, or nothing that requires a gradient.
    """
    parameters = loss.parameters
    members = grouped(parameters, groups)
    if n_blocks is None:
        have = loss.replicates // 2 if blocks == "rotations" else loss.structures
        n_blocks = max(2, min(8, have))
    given = list(parameters.values())

    def both(losses: Decomposed) -> list[Tensor]:
        return [*of_losses(losses.mean, given, keep=True), *of_losses(losses.equiv, given)]

    rows = [block.accumulate(both) for block in loss.blocks(n_blocks, blocks)]
    return of_blocks(
        [row[: len(given)] for row in rows], [row[len(given) :] for row in rows], parameters, members, blocks
    )


def of_losses(loss: Tensor, parameters: Sequence[Tensor], *, keep: bool = False, scale: float = 1.0) -> list[Tensor]:
    """The gradient of one loss; zero for parameters that it does not hang on.

    Args:
        loss: ``()``.
        parameters: to differentiate by; nothing is written to their ``.grad``.
        keep: the graph, for another loss.
        scale: the loss is multiplied, and its gradient divided by: half precision cannot hold small gradients.
    """
    seed = torch.full_like(loss, scale)
    found = torch.autograd.grad(
        loss, list(parameters), seed, retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    real = (_real(one.detach()) for one in found)
    wider = (one.to(torch.promote_types(one.dtype, torch.float32)) for one in real)
    return [one if scale == 1.0 else one / scale for one in wider]


def _real(gradient: Tensor) -> Tensor:
    """Of what kind a parameter may be, a dense tensor of real numbers: of complex ones both parts."""
    dense = gradient if gradient.layout == torch.strided else gradient.to_dense()
    return torch.view_as_real(dense) if dense.is_complex() else dense


def of_blocks(
    mean: Sequence[Sequence[Tensor]],
    equiv: Sequence[Sequence[Tensor]],
    parameters: Mapping[str, Tensor],
    members: Mapping[str, Sequence[int]],
    blocks: str = "rotations",
) -> Gradients:
    """Norms and products by group."""
    found, sizes = {}, {}
    counts = [value.numel() for value in parameters.values()]
    for name, places in members.items():
        x = products([[block[k] for k in places] for block in mean], [[block[k] for k in places] for block in equiv])
        found[name], sizes[name] = GradientSums.of(x), sum(counts[k] for k in places)
    return Gradients(found, blocks, sizes)
