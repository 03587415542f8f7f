r"""Replay: the user's own step, run again with other predictions in the place of the network's.

The step ``ℓ`` is a function of the network ``f``, which it may call any number of times. It is run with ``h_g``, with
the mean ``m̄`` over the plan, and with the means ``m̄₋r`` that leave out a replicate, each as a *network*: whatever the
step asks, it is given that network's value at what is asked then. So a call that depends on an earlier,
substituted output (self-conditioning) is evaluated anew, one that does not is looked up. The scalars that come back are
``ℓ(h_{ri})``, ``ℓ(m̄)`` and ``ℓ(m̄₋r)``, which :func:`equiv_probe.estimation.jackknife.jackknife` decomposes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.isolation import left_out
from equiv_probe.probe.agreement import alone
from equiv_probe.probe.operators import DISPLACED, FAR, OWN, Runs, by_name
from equiv_probe.probe.per_structure import Losses, Split, separated
from equiv_probe.probe.player import Player
from equiv_probe.probe.step_losses import losses_of_structures, precision_of, scalars_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from equiv_probe.estimation.jackknife import Jackknife
    from equiv_probe.probe.operators import Operator
    from equiv_probe.probe.recorded import RecordedStep
    from equiv_probe.rotations.plan import RotationPlan

ROUNDING = 64.0
"""Spacings of numbers by which a step's number may differ when it is computed once more."""

STILL = 3e-3
"""Relative change of a number up to which it does not follow the network's outputs."""


@dataclass(frozen=True)
class Replay:
    """What came of a step: its own result, untouched, and each scalar of it, decomposed.

    Attributes:
        result: what the user's own run returned.
        scalars: the jackknife of each scalar by name; of a step that returns one number, ``"loss"``.
        calls: how often the step called the network.
        evaluations: how many rotated batches the network was evaluated on.
        precision: by scalar, the spacing of numbers in its type, relative to one.
        per_structure: the jackknife of each structure's share of a scalar, where the step returned losses by
            structure, or it was asked for.
        unsplit: why a scalar could not be split by structure, as far as the host knows.
        returned: the scalars whose losses by structure the step returned itself: then the others need no advice
            to do so.
        reproduced: by scalar, its value in the ordinary run and with the network's own outputs put in its place, where
            that was checked: the same, or the step has a memory.
        bent: by scalar, whether it was larger for the mean of the outputs than in the mean over them: then it is not
            convex in them.
    """

    result: Any
    scalars: Mapping[str, Jackknife]
    calls: int
    evaluations: int
    precision: Mapping[str, float]
    per_structure: Mapping[str, Split] = field(default_factory=dict)
    unsplit: Mapping[str, str] = field(default_factory=dict)
    returned: tuple[str, ...] = ()
    reproduced: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    bent: Mapping[str, Tensor] = field(default_factory=dict)

    def unreproduced(self, name: str) -> Tensor:
        """Whether a scalar was another one when the step was run again with the network's own outputs, ``()``."""
        own, again = self.reproduced[name]
        return differs(own, again, self.precision[name])

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
    run: RecordedStep,
    plan: RotationPlan,
    rotations: Tensor,
    *,
    first: dict[str, Tensor] | None = None,
    split: bool = False,
    check: bool = True,
) -> Replay:
    """Decompose the scalars of a step that was just run and recorded.

    Args:
        run: the step.
        plan: of R ≥ 2 replicates.
        rotations: ``(R, n, 3, 3)``, or ``(R, n, U, 3, 3)`` where every call sees the same structures.
        first: ``h_g`` of the first rotation, where it is known and there is one call.
        split: whether to split its numbers into losses of the structures, by one run more.
        check: whether to run it once more with the network's own outputs, whose numbers must be the ordinary run's.
    """
    runs = Runs.of(plan, len(rotations))
    batch = run.structures[0]
    scalars: dict[Operator, dict[str, Tensor]] = {}
    by_structure: dict[Operator, dict[str, Tensor]] = {}
    player = Player(run, rotations, plan.weights, first=first)
    player.keeps = split

    def again(operator: Operator) -> Any:
        with player.standing_in(operator):
            return run.again()

    of_structures: dict[str, Losses] = {}
    unsplit: dict[str, str] = {}
    with run.repeating():
        for operator in runs.all:
            returned = again(operator)
            by_structure[operator] = losses_of_structures(returned, batch, named_too=split)
            scalars[operator] = scalars_of(returned, by_structure[operator])
        # Last: what piles up over the runs shows here.
        reproduced = reproduced_numbers(again, run, named_too=split) if check else {}
        if player.rotated or left_out():  # the ordinary run's number is of something else, and means to be
            reproduced = {}
        if split:
            of_structures, unsplit = separated(again, player, scalars, run.structures, run.modules)
    for name, losses in by_name(by_structure, by_structure[runs.mean]).items():
        of_structures[name] = Losses.returned(losses, batch)
        unsplit.pop(name, None)
    numbers = by_name(scalars, scalars[runs.mean])
    precision = {name: precision_of(run.result, name) for name in numbers}
    away = {name: strayed(player, reproduced.get(name), precision[name]) for name in numbers}
    return Replay(
        run.result,
        {name: runs.jackknife(one, away[name]) for name, one in numbers.items()},
        len(run.calls),
        player.averages.evaluations,
        precision,
        {
            name: Split(runs.jackknife(one.checked(), away[name]), one.weight, one.right, one.constant)
            for name, one in of_structures.items()
        },
        unsplit,
        tuple(by_structure[runs.mean]),
        reproduced,
        {name: runs.bent(one) for name, one in numbers.items()},
    )


class Unmoved(NamedTuple):
    """Numbers of a step by what they do where the network returns something else."""

    same: list[str]
    """The same to the last bit: they come from what a pass leaves in an attribute, another network, a cache."""
    still: list[str]
    """Hardly moved, however far the outputs are moved: divided by their own size, or at a cap."""
    others: list[str]


def numbers_that_ignore_the_network(run: RecordedStep) -> Unmoved:
    """Numbers that do not say how good the outputs are: their ``L_equiv`` would be zero, and say nothing.

    Waits for the device.
    """
    like = torch.ones(1, dtype=torch.float64, device=run.device)
    player = Player(run, torch.eye(3, dtype=like.dtype, device=run.device).expand(1, 1, 3, 3), like)

    def numbers(result: Any) -> dict[str, Tensor]:
        return scalars_of(result, losses_of_structures(result, run.structures[0], named_too=False))

    own = numbers(run.result)
    same = still = list(own)
    # Counts, of hits for one, may be the same by chance.
    for operator in (*DISPLACED, FAR):
        with run.repeating(), player.standing_in(operator):
            moved = numbers(run.again())
        same = [name for name in same if name in moved and bool(own[name] == moved[name])]
        still = [name for name in still if name in moved and _is_still(own[name], moved[name])]
        if not still and alone():  # several processes run a step equally often: it may gather
            break
    still = [name for name in still if name not in same]
    return Unmoved(same, still, [name for name in own if name not in {*same, *still}])


def _is_still(own: Tensor, moved: Tensor) -> bool:
    return bool((moved - own).abs() <= STILL * own.abs())


def strayed(player: Player, numbers: tuple[Tensor, Tensor] | None, precision: float) -> Tensor | None:
    """Whether a step asked something else than in its ordinary run, or returned another number; None: surely not."""
    found = list(player.strayed)
    if numbers is not None:
        found.append(differs(*numbers, precision))
    return torch.stack([one.to(found[-1].device) for one in found]).any() if found else None


def reproduced_numbers(
    again: Callable[[Operator], Any], run: RecordedStep, *, named_too: bool = False
) -> dict[str, tuple[Tensor, Tensor]]:
    """The numbers of a step's ordinary run, and those with the network's own outputs in its place, by name.

    Afterwards :func:`left_out` says whether the run with its own outputs left something out.
    """
    left_out()
    results, batch = (run.result, again(OWN)), run.structures[0]
    both = [scalars_of(one, losses_of_structures(one, batch, named_too=named_too)) for one in results]
    return {name: (value, both[1].get(name, torch.full_like(value, torch.nan))) for name, value in both[0].items()}


def differs(own: Tensor, again: Tensor, precision: float) -> Tensor:
    """Whether two numbers that should be the same differ by more than rounding, ``()``, without waiting."""
    allowed = ROUNDING * precision * torch.maximum(own.abs(), again.abs())
    return ((own - again).abs() > allowed) | (own.isnan() != again.isnan())


def require_reproduced(replay: Replay, run: RecordedStep) -> None:
    """Raise EquivProbeError for a step with a memory that could not be put back; waits for the device.

    Of several numbers, that of the loss counts.
    """
    name = "loss" if "loss" in replay.scalars else next(iter(replay.scalars))
    lost = run.memory.lost
    if name in replay.reproduced and bool(replay.unreproduced(name)):
        own, again = (float(value) for value in replay.reproduced[name])
        written = f"; it wrote into {', '.join(lost)}, too large to be put back" if lost else ""
        raise EquivProbeError(
            f"a step that returned {name} = {own:.6g}, and {again:.6g} when it was run again with the very outputs "
            f"that the network had{written}",
            "a step that depends on its batch, the network and random numbers alone: no running mean, queue, counter "
            "or iterator that cannot be put back, nothing written into its batch",
            "keep what it remembers in a module, or in an object or dict that the step names; or leave it out: "
            "probe.step(lambda: loss_without_memory)",
        )
