"""What the parts of a probe share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import nn

    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.probe.accumulated import Accumulated
    from equiv_probe.probe.agreement import Meeting
    from equiv_probe.probe.checks import Checks
    from equiv_probe.probe.failures import Failures
    from equiv_probe.probe.plans import Plans
    from equiv_probe.probe.schedules import Schedules


@dataclass(frozen=True)
class Parts:
    """What the parts of a probe share.

    Attributes:
        model: the probed module, wrapped or not.
        live: how its network is evaluated at rotated inputs.
        plans: the rotations.
        schedules: when to measure.
        so_far: what was measured.
        failures: what could not be.
        meeting: of the processes over which a network is spread.
        checks: what the numbers must have passed.
        evaluate: what a call is compared with.
        replays: whether steps are run again; not where the losses of a call are known.
        protect: other modules that a step touches.
        quiet: makes contexts in which steps are run again.
        seed: of the rotations.
    """

    model: nn.Module
    live: LiveOrbit
    plans: Plans
    schedules: Schedules
    so_far: Accumulated
    failures: Failures
    meeting: Meeting
    checks: Checks
    evaluate: Evaluate
    replays: bool
    protect: tuple[nn.Module, ...]
    quiet: Callable[[], AbstractContextManager[Any]]
    seed: int

    @property
    def stage(self) -> str:
        """The name of the present stage, by the network's mode."""
        return "train" if self.live.network.training else "val"
