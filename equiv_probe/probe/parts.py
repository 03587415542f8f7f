"""What the parts of a probe share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from equiv_probe.probe.agreement import Meeting
from equiv_probe.probe.checks import Checks
from equiv_probe.probe.failures import Failures

if TYPE_CHECKING:
    from torch import nn

    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.probe.accumulated import Accumulated
    from equiv_probe.probe.plans import Plans
    from equiv_probe.probe.schedules import Schedules
    from equiv_probe.probe.task import Task


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

    @property
    def stage(self) -> str:
        """The name of the present stage, by the network's mode."""
        return "train" if self.live.network.training else "val"
