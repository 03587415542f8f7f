"""Measuring a step of the user's own: its losses, decomposed, and their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.cutting import CannotCut
from equiv_probe.live.module_snapshot import unnoticed
from equiv_probe.probe.call_measurement import Pending, measure_call
from equiv_probe.probe.floors import floor_is_due, floor_of_step
from equiv_probe.probe.replay import Replay, replay_step, require_reproduced
from equiv_probe.probe.replay_of_part import replay_part
from equiv_probe.rotations.drawing import source

if TYPE_CHECKING:
    from equiv_probe.live.capture import Call
    from equiv_probe.live.sub_batches import SubBatch
    from equiv_probe.probe.affordable import Size
    from equiv_probe.probe.parts import Parts
    from equiv_probe.probe.recorded import RecordedStep
    from equiv_probe.rotations.plan import RotationPlan

CHECKED = 32
"""Measurements in training after which it is checked again that a step reproduces its number."""

NOT_REPLAYED = (
    "gradients were not measured: they need a step that can be run again, not one that changes the weights itself "
    "(manual optimisation) or takes its batch from an iterator"
)


def gradients_due(parts: Parts, *, replay: bool) -> bool:
    """Whether gradients are due at this training step; one that cannot be run again is only counted."""
    gradients = parts.so_far.gradients
    if gradients is None or not parts.schedules["gradients", "train"].due():
        return False
    if not replay and NOT_REPLAYED not in gradients.notes:
        gradients.notes.append(NOT_REPLAYED)
    return replay


def measure_step(parts: Parts, run: RecordedStep, stage: str, per_structure: bool | None) -> None:
    """Decompose the losses of a recorded step, and take in what comes of it.

    Where it has none, cannot be run again, or the losses of a call are known, its first call is measured instead.
    """
    first = run.calls[0]
    if run.never_again:
        parts.checks.steps.of_unrepeatable(run)
    if run.trains and parts.checks.steps.weights_moved_on(run, stage):
        parts.schedules["step", stage].postpone()
        return
    if run.never_again or not parts.task.replays or (isinstance(run.result, Mapping) and not run.result):
        measure_call(parts, Pending(first.call, stage, "step"), first.raw)
        return
    # On the training path the device may be waited for at the first measurement only, of what has an orientation.
    look = stage != "train" or not parts.failures.succeeded or parts.checks.calls.waits
    with parts.schedules.timed("step", stage), unnoticed(run.live.network) if look else nullcontext():
        schedule = parts.schedules["step", stage]
        check = look or schedule.measured % CHECKED == 0
        part, found = _of_part(parts, run, stage, per_structure) if look else (None, None)
        if found is None:
            size: Size = "few" if schedule.size == "part" else schedule.size  # of the whole batch
            plan = parts.plans.fitted(parts.live, first.call, first.raw, stage, size=size)
            found = replayed(parts, run, plan, per_structure, stage=stage, look=look, check=check)
        parts.so_far.add_step(stage, run, found, look=look)
        if floor_is_due(parts, stage, "step"):
            floor_of_step(parts, run, stage, part)


def _of_part(
    parts: Parts, run: RecordedStep, stage: str, per_structure: bool | None
) -> tuple[SubBatch, Replay] | tuple[None, None]:
    """A step decomposed by a few structures of its batch, where that is asked for and right."""
    first, over = run.calls[0], parts.so_far.over
    if len(run.calls) > 1 or per_structure is False or over is not None or stage in parts.checks.steps.no_sums:
        return None, None
    _settle(run, look=True)
    part = parts.of_batch(stage, "step", first.call, first.raw)
    if part is None:
        return None, None
    plan = parts.plans.fitted(parts.live, part.call, part.of(first.known(run.live.known_schema)), stage, size="part")
    _look(parts, run, part.call, plan, stage)
    if parts.checks.calls.rotates_alike(run.live):
        return None, None
    with torch.no_grad():
        rotations = parts.plans.of_part(run.live, part, plan)
    try:
        with parts.task.quiet():
            found = replay_part(run, part, plan, rotations)
    except CannotCut:
        parts.checks.steps.no_sums.add(stage)
        return None, None
    require_reproduced(found, run)
    parts.checks.steps.of_replay(run, found, _written(run), stage)
    return part, found


def _settle(run: RecordedStep, *, look: bool) -> None:
    """Make sure that a step can be run again, and what it is made of."""
    require_repeatable(run)
    with unnoticed(run.live.network) if look else nullcontext():
        run.resolve()


def _look(parts: Parts, run: RecordedStep, call: Call, plan: RotationPlan, stage: str) -> None:
    """Run the checks, each once; on a call of the step's batch, or of a part of it."""
    if run.device.type != "meta":  # which has no numbers to look at
        with unnoticed(run.live.network), torch.no_grad():
            parts.checks.steps.of_step(run)
            parts.checks.calls.of_call(run.live, call, run.calls[0].before, plan)
        with unnoticed(run.live.network), parts.task.quiet():
            parts.checks.steps.of_numbers(run, stage)
            parts.checks.steps.of_frame(run, stage)


def _written(run: RecordedStep) -> list[str]:
    """What a step wrote into."""
    return list(dict.fromkeys((*run.memory.changes, *run.snapshot.changes)))


def replayed(
    parts: Parts,
    run: RecordedStep,
    plan: RotationPlan,
    per_structure: bool | None,
    *,
    stage: str = "",
    look: bool = True,
    check: bool = True,
) -> Replay:
    """Run a recorded step again, and decompose what it returns.

    Args:
        parts: of the probe.
        run: the step.
        plan: of the rotations.
        per_structure: as for :meth:`equiv_probe.Probe.replay`.
        stage: whose.
        look: whether the device may be waited for.
        check: whether to run it with the network's own outputs too.

    Raises:
        EquivProbeError: it returns another number then, or uses what cannot be put back.
    """
    _settle(run, look=look)
    if look:
        _look(parts, run, run.calls[0].call, plan, stage)
    look = look and run.device.type != "meta"
    if per_structure is None and parts.checks.calls.rotates_alike(run.live):
        per_structure = False
    with torch.no_grad():
        rotations, first = parts.plans.of_step(run, plan, per_structure=per_structure)
    with parts.task.quiet():
        found = replay_step(run, plan, rotations, first=first, split=parts.so_far.over is not None, check=check)
    if look:
        require_reproduced(found, run)
    parts.checks.steps.of_replay(run, found, _written(run) if look else [], stage)
    return found


def require_repeatable(run: RecordedStep) -> None:
    """Raise EquivProbeError for a step that trains, or used what cannot be put back."""
    if run.never_again:
        raise EquivProbeError(
            f"a step that {run.never_again}",
            "a step that can be run again without a trace",
            "leave that outside of the step: probe.step(lambda: loss_fn(model(x), y)), and before it fetch the batch, "
            "after it go backward, let the optimizer step, write numbers",
        )


def measure_gradients(parts: Parts, run: RecordedStep, per_structure: bool | None) -> None:
    """Differentiate a recorded training step; what cannot be differentiated is listed, and ends no run."""
    assert parts.so_far.gradients is not None
    first = run.calls[0]
    with parts.schedules.timed("gradients", "train"):
        try:
            require_repeatable(run)
            run.resolve()
            number = parts.schedules["gradients", "train"].step
            with parts.task.quiet():
                parts.so_far.gradients.measure(
                    run,
                    parts.plans.fitted(parts.live, first.call, first.raw, "train"),
                    source(parts.seed, number, run.device),
                    per_structure=per_structure,
                )
        except Exception as error:
            parts.failures.add(error, "measure gradients")
