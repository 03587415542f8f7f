r"""Replay: the user's own step, run again with other predictions in the place of the network's.

The step ``ℓ`` is a function of the network ``f``, which it may call any number of times. It is run with ``h_g``, with
the mean ``m̄`` over the plan, and with the means ``m̄₋r`` that leave out a replicate, each as a *network*: whatever the
step asks, it is given that network's value at what is asked then. So a call that depends on an earlier,
substituted answer (self-conditioning) is evaluated anew, one that does not is looked up. The scalars that come back are
``ℓ(h_{ri})``, ``ℓ(m̄)`` and ``ℓ(m̄₋r)``, which :func:`equiv_probe.estimation.jackknife.jackknife` decomposes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.probe.operators import Runs
from equiv_probe.probe.per_structure import Losses, Split, separated
from equiv_probe.probe.player import Player
from equiv_probe.probe.step_losses import losses_of_structures, precision_of, scalars_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.estimation.jackknife import Jackknife
    from equiv_probe.probe.operators import Operator
    from equiv_probe.probe.recorded import RecordedStep
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
        per_structure: the jackknife of each structure's share of a scalar, where the step returned losses by
            structure, or it was asked for.
        unsplit: why a scalar could not be split by structure, as far as the host knows.
        returned: the scalars whose losses by structure the step returned itself: then the others need no advice
            to do so.
    """

    result: Any
    scalars: Mapping[str, Jackknife]
    calls: int
    evaluations: int
    precision: Mapping[str, float]
    per_structure: Mapping[str, Split] = field(default_factory=dict)
    unsplit: Mapping[str, str] = field(default_factory=dict)
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
    run: RecordedStep,
    plan: RotationPlan,
    rotations: Tensor,
    *,
    first: dict[str, Tensor] | None = None,
    split: bool = False,
) -> Replay:
    """Decompose the scalars of a step that was just run and recorded.

    Args:
        run: the step.
        plan: of R ≥ 2 replicates.
        rotations: ``(R, n, 3, 3)``, or ``(R, n, U, 3, 3)`` where every call sees the same structures.
        first: ``h_g`` of the first rotation, where it is known and there is one call.
        split: whether to split its numbers into losses of the structures, by one run more.
    """
    runs = Runs.of(plan, len(rotations))
    batch = run.structures[0]
    scalars: dict[Operator, dict[str, Tensor]] = {}
    by_structure: dict[Operator, dict[str, Tensor]] = {}
    player = Player(run, rotations, plan.weights, first=first)
    player.keeps = split

    def again(operator: Operator) -> Any:
        with player.answering(operator):
            return run.step()

    of_structures: dict[str, Losses] = {}
    unsplit: dict[str, str] = {}
    with run.repeating():
        for operator in runs.all:
            returned = again(operator)
            by_structure[operator] = losses_of_structures(returned, batch, named_too=split)
            scalars[operator] = scalars_of(returned, by_structure[operator])
        if split:
            of_structures, unsplit = separated(again, player, scalars, run.structures, run.modules)
    for name in by_structure[runs.mean]:
        of_structures[name] = Losses.returned({o: one[name] for o, one in by_structure.items()}, batch)
        unsplit.pop(name, None)
    strayed = torch.stack(player.strayed).any() if player.strayed else None
    names = list(scalars[runs.mean])
    return Replay(
        run.result,
        {name: runs.jackknife({o: one[name] for o, one in scalars.items()}, strayed) for name in names},
        len(run.calls),
        player.averages.evaluations,
        {name: precision_of(run.result, name) for name in names},
        {
            name: Split(runs.jackknife(one.checked(), strayed), one.weight, one.right)
            for name, one in of_structures.items()
        },
        unsplit,
        tuple(by_structure[runs.mean]),
    )
