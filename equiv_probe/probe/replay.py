r"""Replay: the user's own step, run again with other predictions in the place of the network's.

The step ``ℓ`` is a function of the network ``f``, which it may call any number of times. It is run with ``h_g``, with
the mean ``m̄`` over the plan, and with the means ``m̄₋r`` that leave out a replicate, each as a *network*: whatever the
step asks, it is answered with that network's value at what is asked then. So a call that depends on an earlier,
substituted answer (self-conditioning) is evaluated anew, one that does not is looked up. The scalars that come back are
``ℓ(h_{ri})``, ``ℓ(m̄)`` and ``ℓ(m̄₋r)``, which :func:`equiv_probe.estimation.jackknife.jackknife` decomposes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.jackknife import Jackknife, jackknife
from equiv_probe.live.isolation import RandomState, isolated
from equiv_probe.live.silence import silenced
from equiv_probe.probe.per_structure import Losses, Parted, separated
from equiv_probe.probe.step_losses import losses_of_structures, precision_of, scalars_of
from equiv_probe.probe.substitution import Operator, Player, Recorded, own_dicts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.rotations.plan import RotationPlan


@dataclass(frozen=True)
class Replay:
    """What came of a step: its own result, untouched, and each scalar of it, decomposed.

    Attributes:
        result: what the user's own run returned.
        scalars: the jackknife of each scalar by name; of a step that returns one number, ``"loss"``.
        calls: how often the step called the network.
        evaluations: how many rotated batches the network was evaluated on.
        precision: by scalar, the spacing of numbers in its type, relative to one.
        per_structure: the jackknife of each structure's part in a scalar, where the step returned losses of structures,
            or it was asked for.
        unparted: why a scalar could not be parted, as far as the host knows.
        returned: the scalars whose parts the step itself returned: then the others need no advice to do so.
    """

    result: Any
    scalars: Mapping[str, Jackknife]
    calls: int
    evaluations: int
    precision: Mapping[str, float]
    per_structure: Mapping[str, Parted] = field(default_factory=dict)
    unparted: Mapping[str, str] = field(default_factory=dict)
    returned: tuple[str, ...] = ()

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
        return 2 * max(1, len(self.first.sizes)) * self.precision[next(iter(self.scalars))] * abs(self.total)

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
    part: bool = False,
) -> Replay:
    """Decompose the scalars of a step that was just run and recorded.

    Args:
        step: the user's closure.
        recorded: the network's calls in its own run.
        result: what that run returned.
        module: whose ``forward`` is replaced.
        live: how to evaluate it at rotated inputs.
        plan: of R ≥ 2 replicates.
        rotations: ``(R, n, 3, 3)``, or ``(R, n, U, 3, 3)`` where every call sees the same structures.
        before: the random state before the user's own run.
        first: the pulled-back prediction of the first rotation, where it is known and there is one call.
        protect: other modules that the step touches.
        part: whether to part its numbers into losses of the structures, by one run more.
    """
    runs = Runs.of(plan, len(rotations))
    batch = live.structures(recorded[0].call.inputs)
    scalars: dict[Operator, dict[str, Tensor]] = {}
    by_structure: dict[Operator, dict[str, Tensor]] = {}
    player = Player(module, live, recorded, rotations, plan.weights, first=first)
    player.keeps = part
    modules = (module, live.network, *protect)
    dicts = [given for one in recorded for given, _ in one.call.dicts]
    own = [generator for generator, _ in before.own]

    def run(operator: Operator) -> Any:
        before.restore()
        with player.answering(operator):
            return step()

    parts: dict[str, Losses] = {}
    unparted: dict[str, str] = {}
    isolation = isolated(*modules, gradients=True, contents=True, apart=dicts, generators=own)
    with silenced(), isolation, own_dicts(recorded):
        for operator in runs.all:
            answered = run(operator)
            by_structure[operator] = losses_of_structures(answered, batch, named_too=part)
            scalars[operator] = scalars_of(answered, by_structure[operator])
        if part:
            structures = [live.structures(one.call.inputs) for one in recorded]
            parts, unparted = separated(run, player, scalars, structures, modules)
    for name in by_structure[runs.mean]:
        parts[name] = Losses.returned({o: one[name] for o, one in by_structure.items()}, batch)
        unparted.pop(name, None)
    strayed = torch.stack(player.strayed).any() if player.strayed else None
    names = list(scalars[runs.mean])
    return Replay(
        result,
        {name: runs.jackknife({o: one[name] for o, one in scalars.items()}, strayed) for name in names},
        len(recorded),
        player.evaluations,
        {name: precision_of(result, name) for name in names},
        {name: Parted(runs.jackknife(one.checked(), strayed), one.weight, one.right) for name, one in parts.items()},
        unparted,
        tuple(by_structure[runs.mean]),
    )


@dataclass(frozen=True)
class Runs:
    """The networks with which a step is run again.

    Attributes:
        each: every rotation of every replicate, ``(R, n)``.
        mean: all of them.
        left_out: all but those of one replicate; none for a plan that is exact.
        weights: of the plan.
        population: how many rotations the plan's are drawn from without replacement; None for independent ones.
    """

    each: tuple[tuple[Operator, ...], ...]
    mean: Operator
    left_out: tuple[Operator, ...]
    weights: Tensor
    population: int | None

    @classmethod
    def of(cls, plan: RotationPlan, replicates: int) -> Runs:
        """Those of a plan."""
        each = tuple(tuple(((r, i),) for i in range(len(plan.weights))) for r in range(replicates))
        every = tuple(g for row in each for (g,) in row)
        left_out = tuple(tuple(g for g in every if g[0] != r) for r in range(replicates)) if plan.is_random else ()
        return cls(each, every, left_out, plan.weights, plan.population)

    @property
    def all(self) -> list[Operator]:
        """Each once."""
        return list(dict.fromkeys((*(one for row in self.each for one in row), self.mean, *self.left_out)))

    def jackknife(self, values: Mapping[Operator, Tensor], strayed: Tensor | None) -> Jackknife:
        """Decompose what came back, ``(*U)`` for each network; NaN if the step could not be repeated."""
        table = torch.stack([torch.stack([values[one] for one in row]) for row in self.each])
        if strayed is not None:  # a step that could not be repeated has no decomposition
            table = torch.where(strayed, torch.nan, table)
        losses = torch.einsum("n,rn...->r...", self.weights.to(table, non_blocking=True), table)
        if not self.left_out:
            none = losses[:0]
            return Jackknife(losses.mean(0), values[self.mean], none, none, none)
        rest = torch.stack([values[one] for one in self.left_out])
        return jackknife(losses, values[self.mean], rest, losses.new_ones(len(losses)), self.population)


def require_untrained(before: Mapping[int, int], after: Mapping[int, int]) -> None:
    """Raise EquivProbeError if a step wrote to the weights: run again, it would train again."""
    if any(after.get(parameter, version) != version for parameter, version in before.items()):
        raise EquivProbeError(
            "a step that changes the model's weights",
            "a step that computes the loss and leaves optimizer.step() outside",
            "probe.step(lambda: loss_fn(model(x), y))",
        )
