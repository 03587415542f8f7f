r"""Replay: the user's own step, run again with other predictions in the place of the network's.

The step ``ℓ`` is a function of the network ``f``, which it may call any number of times. It is run with ``h_g``, with
the mean ``m̄`` over the plan, and with the means ``m̄₋r`` that leave out a replicate, each as a *network*: whatever the
step asks, it is answered with that network's value at what is asked then. So a call that depends on an earlier,
substituted answer (self-conditioning) is evaluated anew, one that does not is looked up. The scalars that come back are
``ℓ(h_{ri})``, ``ℓ(m̄)`` and ``ℓ(m̄₋r)``, which :func:`equiv_probe.jackknife.jackknife` decomposes.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.capture import wide
from equiv_probe.errors import EquivProbeError
from equiv_probe.isolation import RandomState, isolated
from equiv_probe.jackknife import Jackknife, jackknife
from equiv_probe.quiet import silenced
from equiv_probe.schema import named
from equiv_probe.substitution import Operator, Player, Recorded, own_dicts

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from equiv_probe.live_orbit import LiveOrbit
    from equiv_probe.rotations import RotationPlan


@dataclass(frozen=True)
class Replay:
    """What came of a step: its own result, untouched, and each scalar of it, decomposed.

    Attributes:
        result: what the user's own run returned.
        scalars: the jackknife of each scalar by name; of a step that returns one number, ``"loss"``.
        calls: how often the step called the network.
        evaluations: how many turned batches the network was evaluated on.
        precision: by scalar, the spacing of numbers in its type, relative to one.
    """

    result: Any
    scalars: Mapping[str, Jackknife]
    calls: int
    evaluations: int
    precision: Mapping[str, float]

    @property
    def first(self) -> Jackknife:
        """The jackknife of the first scalar."""
        return next(iter(self.scalars.values()))

    @property
    def total(self) -> float:
        """``L_total`` of the first scalar."""
        return float(self.first.total)

    @property
    def mean(self) -> float:
        """``L_mean`` of the first scalar."""
        return float(self.first.mean)

    @property
    def equiv(self) -> float:
        """``L_equiv`` of the first scalar."""
        return float(self.first.equiv)

    @property
    def equiv_stderr(self) -> float:
        """Its standard error over replicates."""
        return float(self.first.stderr(self.first.pseudo_equiv))

    @property
    def resolution(self) -> float:
        """What rounding of the returned numbers alone may make of ``L_equiv`` of the first scalar."""
        return 2 * len(self.first.sizes) * self.precision[next(iter(self.scalars))] * abs(self.total)

    @property
    def share(self) -> float:
        """``L_equiv / L_total`` of the first scalar."""
        return self.equiv / self.total


def replay_step(
    step: Callable[[], Any],
    recorded: list[Recorded],
    result: Any,
    *,
    module: nn.Module,
    live: LiveOrbit,
    plan: RotationPlan,
    rotations: Tensor,
    before: RandomState,
    first: dict[str, Tensor] | None = None,
    protect: tuple[nn.Module, ...] = (),
) -> Replay:
    """Decompose the scalars of a step that was just run and recorded.

    Args:
        step: the user's closure.
        recorded: the network's calls in its own run.
        result: what that run returned.
        module: whose ``forward`` is replaced.
        live: how to evaluate it at turned inputs.
        plan: of R ≥ 2 replicates.
        rotations: ``(R, n, 3, 3)``, or ``(R, n, U, 3, 3)`` where every call sees the same structures.
        before: the random state before the user's own run.
        first: the pulled-back prediction of the first rotation, where it is known and there is one call.
        protect: other modules that the step touches.
    """
    weights, count = plan.weights, len(rotations)
    every = [(r, i) for r in range(count) for i in range(len(weights))]
    scalars: dict[Operator, dict[str, Tensor]] = {}
    player = Player(module, live, recorded, rotations, weights, first=first)
    modules = (module, live.network, *protect)
    dicts = [given for one in recorded for given, _ in one.call.dicts]
    with silenced(), isolated(*modules, gradients=True, contents=True, apart=dicts), own_dicts(recorded):

        def losses(operator: Operator) -> dict[str, Tensor]:
            if operator not in scalars:
                before.restore()
                with player.answering(operator):
                    scalars[operator] = scalars_of(step())
            return scalars[operator]

        each = [[losses(((r, i),)) for i in range(len(weights))] for r in range(count)]
        of_mean = losses(tuple(every))
        left_out = [losses(tuple(g for g in every if g[0] != r)) for r in range(count)] if plan.is_random else []
    found = {}
    for name in scalars_of(result):
        table = torch.stack([torch.stack([value[name] for value in row]) for row in each])
        if player.strayed:  # a step that could not be repeated has no decomposition
            table = torch.where(torch.stack(player.strayed).any(), torch.nan, table)
        mean_losses = torch.einsum("n,rn->r", weights.to(table, non_blocking=True), table)
        if plan.is_random:
            rest = torch.stack([value[name] for value in left_out])
            found[name] = jackknife(mean_losses, of_mean[name], rest, torch.ones_like(mean_losses), plan.population)
        else:
            none = mean_losses[:0]
            found[name] = Jackknife(mean_losses.mean(0), of_mean[name], none, none, none)
    precision = {name: _precision(result, name) for name in found}
    return Replay(result, found, len(recorded), player.evaluations, precision)


def scalars_of(result: Any) -> dict[str, Tensor]:
    """The numbers that a step returned, by name, detached and in float64; one alone is ``"loss"``.

    Raises:
        EquivProbeError: there is none.
    """
    several = isinstance(result, (Mapping, tuple, list))
    found = {}
    for name, value in (named(result) if several else {"loss": result}).items():
        if isinstance(value, torch.Tensor) and value.numel() == 1 and value.dtype != torch.bool:
            found[name] = wide(value.detach().reshape(()))
        elif isinstance(value, (numbers.Real, np.generic)) and not isinstance(value, bool):
            found[name] = torch.tensor(float(value), dtype=torch.float64)
    if not found:
        raise EquivProbeError(
            f"a step that returned {type(result).__name__} without a number",
            "its loss, or a dict of losses",
            "return loss",
        )
    return found


def _precision(result: Any, name: str) -> float:
    value = result
    if isinstance(result, (Mapping, tuple, list)):
        value = named(result)[name]
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return float(torch.finfo(value.dtype if floating else torch.float64).eps)


def require_untrained(before: Mapping[int, int], after: Mapping[int, int]) -> None:
    """Raise EquivProbeError if a step wrote to the weights: run again, it would train again."""
    if any(after.get(parameter, version) != version for parameter, version in before.items()):
        raise EquivProbeError(
            "a step that changes the model's weights",
            "a step that computes the loss and leaves optimizer.step() outside",
            "probe.step(lambda: loss_fn(model(x), y))",
        )
