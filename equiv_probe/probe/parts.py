"""What the parts of a probe share, and the controls that its numbers must have passed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.estimation.controls import failed_first
from equiv_probe.live.module_snapshot import unnoticed
from equiv_probe.probe.agreement import Meeting, alone
from equiv_probe.probe.call_checks import CallChecks
from equiv_probe.probe.failures import Failures
from equiv_probe.probe.found_controls import FoundControls
from equiv_probe.probe.step_checks import StepChecks

if TYPE_CHECKING:
    from torch import nn

    from equiv_probe.estimation.controls import Control
    from equiv_probe.estimation.running import RunningEstimates
    from equiv_probe.live.capture import Call
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.live.sub_batches import SubBatch
    from equiv_probe.probe.accumulated import Accumulated
    from equiv_probe.probe.plans import Plans
    from equiv_probe.probe.schedules import Schedules
    from equiv_probe.probe.task import Task


class Checks:
    """The controls of calls and of steps, with what they found."""

    def __init__(self) -> None:
        self.found = FoundControls()
        self.calls, self.steps = CallChecks(self.found), StepChecks(self.found)

    def all(self, running: RunningEstimates) -> list[Control]:
        """The controls, those that failed first; fetches numbers from the device."""
        return failed_first([*self.found.controls, *self.steps.negative(running)])


@dataclass(frozen=True)
class Parts:
    """What the parts of a probe share.

    Attributes:
        model: the probed module, wrapped or not.
        live: how its network is evaluated at rotated inputs.
        task: what it is compared with.
        plans: the rotations.
        schedules: when to measure.
        so_far: what was measured.
        seed: of the rotations.
        failures: what could not be measured.
        meeting: of the processes over which a network is spread.
        checks: what the numbers must have passed.
    """

    model: nn.Module
    live: LiveOrbit
    task: Task
    plans: Plans
    schedules: Schedules
    so_far: Accumulated
    seed: int
    failures: Failures = field(default_factory=Failures)
    meeting: Meeting = field(default_factory=Meeting)
    checks: Checks = field(default_factory=Checks)

    def of_batch(self, stage: str, kind: str, call: Call, raw: Any) -> SubBatch | None:
        """A few structures of a call's batch, where the present measurement takes no more and they can be had.

        Args:
            stage: whose.
            kind: what is counted.
            call: of the network.
            raw: its output.
        """
        schedule, rotated = self.schedules[kind, stage], self.plans.augmentation(self.model, self.live) is not None
        if schedule.size != "part" or rotated or not (self.plans.takes_parts(stage) and alone()):
            return None
        with unnoticed(self.live.network), torch.no_grad():
            found = self.live.part(call, raw, self.seed, schedule.step)
        schedule.fraction = 1.0 if found is None else 1 / found.scale
        return found

    @property
    def stage(self) -> str:
        """The name of the present stage, by the network's mode."""
        return "train" if self.live.network.training else "val"
