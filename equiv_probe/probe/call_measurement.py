"""Measuring one call of the network: without labels, or against labels that came with it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.live.module_snapshot import unnoticed
from equiv_probe.live.outputs import read_outputs
from equiv_probe.live.random_state import RandomState
from equiv_probe.probe.floors import floor_is_due, floor_of_call

if TYPE_CHECKING:
    from equiv_probe.live.capture import Call
    from equiv_probe.probe.parts import Parts


@dataclass(frozen=True)
class Pending:
    """A call that is to be measured once the network has put out something.

    Attributes:
        call: what went in.
        stage: whose.
        kind: ``"call"`` or ``"step"``, which is counted.
        before: the random state before the call, where an augmentation rotates it.
        thread: that made the call.
    """

    call: Call
    stage: str
    kind: str
    before: RandomState | None = None
    thread: int = field(default_factory=threading.get_ident)


def measure_call(parts: Parts, pending: Pending, raw: Any) -> None:
    """Evaluate the orbit of a call, and take in what comes of it; nothing waits for the device.

    Args:
        parts: of the probe.
        pending: the call.
        raw: the network's own output.
    """
    live, call, before = parts.live, pending.call, pending.before
    with (
        parts.schedules.timed(pending.kind, pending.stage),
        unnoticed(live.network),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        live.resolve(call, raw)
        part = parts.of_batch(pending.stage, pending.kind, call, raw)
        if part is not None:
            call, raw = part.call, part.of(read_outputs(raw, live.known_schema))
        rotated = None if before is None else parts.plans.rotated_by(parts.model, live)
        if rotated is None:
            live.network.eval()
        size = parts.schedules[pending.kind, pending.stage].size
        plan = parts.plans.fitted(live, call, raw, pending.stage, size="few" if size == "part" else size)
        if plan.design != "haar":  # only of Haar rotations are the augmentation's a sample
            rotated = None
            live.network.eval()
        parts.checks.calls.of_call(live, call, RandomState.now(), plan)
        if pending.kind == "call":
            parts.checks.calls.of_chance(live, call)
        count = live.structures(call.inputs).count
        if parts.checks.calls.rotates_alike(live) and rotated is None:
            rotations = parts.plans.source.draw(plan, call.inputs, None)[:, :, None].expand(-1, -1, count, -1, -1)
        else:
            rotations = parts.plans.source.draw(plan, call.inputs, count, rotated)
        known = None
        if rotated is not None and before is not None:
            # The user's own output is that of the first rotation; the second in the same mode, with its dropout.
            known = {name: v.detach()[None] for name, v in read_outputs(raw, live.known_schema).items()}
            before.restore()
        measured = live.measure(call, raw, plan, rotations, evaluate=parts.task.evaluate, known=known)
        parts.so_far.add_call(pending.stage, live, call, measured)
        if floor_is_due(parts, pending.stage, pending.kind):
            floor_of_call(parts, call, raw, pending.stage)
