r"""Replay for a few structures of a large batch: the others keep the outputs that the network had.

Of a loss that is a sum over structures, ``ℓ = Σ_u ℓ_u`` with whatever fixed weights (a mean over structures, or over
all atoms), what changes when the outputs of S of the U structures are replaced is ``Σ_{u∈S} (ℓ_u(h) − ℓ_u(f))``, and
for S drawn at random ``U/S`` times that is without bias what changes when all are (Horvitz & Thompson, J. Am. Stat.
Assoc. 47 (1952) 663). So

    L_equiv = U/S · L_equiv(S),    L_total = ℓ(f) + U/S · (L_total(S) − ℓ(f)).

That the loss *is* such a sum is not assumed. The chosen structures are replaced in groups, too, and what the groups
make of ``L_equiv`` must add up to what all of them make. The same numbers are pseudo-values: groups are independent in
their structures and rotations, so that their scatter is the whole error, draw included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.jackknife import Jackknife
from equiv_probe.live.cutting import CannotCut
from equiv_probe.probe.operators import Runs, by_name
from equiv_probe.probe.player import Player
from equiv_probe.probe.replay import ROUNDING, Replay, reproduced_numbers, strayed
from equiv_probe.probe.step_losses import losses_of_structures, precision_of, scalars_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from torch import Tensor

    from equiv_probe.live.sub_batches import SubBatch
    from equiv_probe.probe.operators import Operator
    from equiv_probe.probe.recorded import RecordedStep
    from equiv_probe.rotations.plan import RotationPlan

GROUPS = 4
"""Of structures: as many as give an error bar."""
TOLERANCE = 1e-3
"""Of ``L_equiv``, beside rounding, by which the groups may miss the sum."""

Numbers = dict["Operator", dict[str, "Tensor"]]


def replay_part(
    run: RecordedStep, part: SubBatch, plan: RotationPlan, rotations: Tensor, *, grouped: bool = True
) -> Replay:
    """Decompose the scalars of a recorded step of one call, by some of its structures.

    Args:
        run: the step.
        part: which structures.
        plan: of R ≥ 2 replicates.
        rotations: of these structures, ``(R, n, S, 3, 3)``.
        grouped: whether to replace them in groups, too; without, there are no error bars.

    Raises:
        CannotCut: the loss is no sum over structures, or the step differentiates its input.
    """
    runs, batch = Runs.of(plan, len(rotations)), run.structures[0]
    player = Player(run, rotations, plan.weights, part=part)

    def again(operator: Operator, group: Tensor | None = None) -> Any:
        player.group = group
        with player.standing_in(operator):
            return run.again()

    def numbers(group: Tensor | None = None) -> Numbers:
        found = {operator: again(operator, group) for operator in runs.all}
        return {o: scalars_of(one, losses_of_structures(one, batch, named_too=False)) for o, one in found.items()}

    groups = torch.arange(len(part.chosen), device=run.device).chunk(GROUPS) if grouped else ()
    with run.repeating():
        together, apart = numbers(), [numbers(group) for group in groups]
        reproduced = reproduced_numbers(again, run) if grouped else {}
    own = scalars_of(run.result, losses_of_structures(run.result, batch, named_too=False))
    names = list(together[runs.mean])
    precision = {name: precision_of(run.result, name) for name in names}
    scalars = {}
    for name in names:
        away = strayed(player, reproduced.get(name), precision[name])
        all_of_them, *each = (_of_sum(runs, one, name, own[name], away) for one in (together, *apart))
        if each and not _adds_up(all_of_them, each, own[name], precision[name]):
            raise CannotCut
        scalars[name] = _scaled(all_of_them, each, own[name], part.scale)
    return Replay(
        run.result,
        scalars,
        1,
        player.averages.evaluations,
        {name: one * part.scale for name, one in precision.items()},
        reproduced=reproduced,
        bent={name: runs.bent(one) for name, one in by_name(together, names).items()},
    )


def _of_sum(runs: Runs, found: Numbers, name: str, own: Tensor, away: Tensor | None) -> Jackknife:
    """What replacing some structures makes of a number: the jackknife of its difference from the ordinary run's."""
    return runs.jackknife({operator: one[name] - own for operator, one in found.items()}, away)


def _adds_up(whole: Jackknife, each: Sequence[Jackknife], own: Tensor, precision: float) -> bool:
    """Whether what groups change adds up; waits for the device."""
    size = torch.stack([one.equiv.abs() for one in each]).sum()
    gap = torch.stack([one.equiv for one in each]).sum() - whole.equiv
    return not bool(gap.abs() > TOLERANCE * size + ROUNDING * precision * own.abs())


def _scaled(whole: Jackknife, each: Sequence[Jackknife], own: Tensor, scale: float) -> Jackknife:
    """The estimate for the batch; pseudo-values are those of the groups."""

    def of_batch(one: Jackknife, by: float) -> tuple[Tensor, Tensor]:
        return own + by * one.total, own + by * one.mean

    total, mean = of_batch(whole, scale)
    if not each:
        return Jackknife(total, mean, *(total[None][:0],) * 3)
    pseudo = [of_batch(one, scale * len(each)) for one in each]
    totals, means = (torch.stack(values) for values in zip(*pseudo, strict=True))
    return Jackknife(total, mean, totals, means, torch.ones_like(totals))
