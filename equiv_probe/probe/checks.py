"""Controls of a probe: what its numbers must have passed before they are believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.estimation.controls import failed_first
from equiv_probe.probe.call_checks import CallChecks
from equiv_probe.probe.found_controls import FoundControls
from equiv_probe.probe.step_checks import StepChecks

if TYPE_CHECKING:
    from equiv_probe.estimation.controls import Control
    from equiv_probe.estimation.running import RunningEstimates


class Checks:
    """The controls of calls and of steps, with what they found."""

    def __init__(self) -> None:
        self.found = FoundControls()
        self.calls, self.steps = CallChecks(self.found), StepChecks(self.found)

    def all(self, running: RunningEstimates) -> list[Control]:
        """The controls, those that failed first; fetches numbers from the device."""
        return failed_first([*self.found.controls, *self.steps.negative(running)])
