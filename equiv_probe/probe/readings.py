"""What a probe has measured so far, and by what: to read, to save and to load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

    from equiv_probe.estimation.controls import Control
    from equiv_probe.estimation.running import RunningEstimates
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.probe.bins import Over
    from equiv_probe.probe.failures import Failures
    from equiv_probe.probe.parts import Parts
    from equiv_probe.probe.schedule import Schedule
    from equiv_probe.probe.schedules import Schedules
    from equiv_probe.probe.step_gradients import StepGradients
    from equiv_probe.results.over_time import OverTime
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe.schema.schema import Schema


class Readings:
    """The numbers of a probe, and the parts that it measures with.

    Args:
        parts: of the probe.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @property
    def model(self) -> nn.Module:
        """The probed module, wrapped or not."""
        return self._parts.model

    @property
    def seed(self) -> int:
        """Of the rotations."""
        return self._parts.seed

    @property
    def window(self) -> int:
        """Measurements in the running estimate."""
        return self.running.window

    @property
    def live(self) -> LiveOrbit:
        """How the network is evaluated at rotated inputs."""
        return self._parts.live

    @property
    def schema(self) -> Schema | None:
        """The representations, once they are known."""
        return self.live.schema

    @property
    def plan(self) -> RotationPlan:
        """The plan of full mode, fitted to the first call."""
        return self._parts.plans.full

    @property
    def light(self) -> RotationPlan:
        """The plan of light mode, likewise."""
        return self._parts.plans.light

    @property
    def schedules(self) -> Schedules:
        """When to measure, by ``"call"``, ``"step"`` or ``"gradients"``, and stage."""
        return self._parts.schedules

    @property
    def running(self) -> RunningEstimates:
        """The estimates, by stage and output."""
        return self._parts.so_far.running

    @property
    def over(self) -> Over | None:
        """The input in whose bins everything is measured too."""
        return self._parts.so_far.over

    @property
    def gradients(self) -> StepGradients | None:
        """What measures gradients, and those measured."""
        return self._parts.so_far.gradients

    @property
    def failures(self) -> Failures:
        """What could not be measured."""
        return self._parts.failures

    @property
    def controls(self) -> list[Control]:
        """What the numbers have passed, and first of all what they have not; fetches numbers from the device."""
        return self._parts.checks.all(self.running)

    @property
    def notes(self) -> list[str]:
        """What a reader should know of the outputs, beside the controls."""
        return list(dict.fromkeys(self._parts.checks.found.notes))

    def schedule(self, kind: str, stage: str) -> Schedule:
        """Which calls or steps are measured, and how long that took.

        Args:
            kind: ``"call"``, ``"step"`` or ``"gradients"``.
            stage: whose.
        """
        return self.schedules[kind, stage]

    def compute(self, *, window: bool = True) -> dict[str, float]:
        """The estimates so far, as ``equiv/<stage>/<output>/L_equiv`` and so on, each with ``_stderr``.

        Args:
            window: over the latest measurements (of gradients, the last one); False for all since the start.
        """
        return self._parts.so_far.compute(window=window)

    @property
    def binned(self) -> list[tuple[str, str]]:
        """Stages and outputs that are in bins of the input named by ``over=``; fetches counts from the device."""
        return self._parts.so_far.binned

    def over_time(self, stage: str = "train", name: str | None = None, *, window: bool | None = None) -> OverTime:
        """The estimates in bins of the input named by ``over=``, to print and to plot.

        Args:
            stage: whose.
            name: of the loss or output; None is the only one, or the first.
            window: over the latest measurements, or all since the start; None is the former in training only.

        Raises:
            EquivProbeError: nothing was binned; the reason where it is known.
        """
        return self._parts.so_far.over_time(stage, name, window=window)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: sums, counts and the generator's state."""
        own = {"schedules": self.schedules.state_dict(), "generator": self._parts.plans.source.state()}
        return {**self._parts.so_far.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`; the model must be on its device."""
        self._parts.so_far.load_state_dict(state)
        self.schedules.load_state_dict(state["schedules"])
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self._parts.plans.source.restore(state["generator"], device)

    def __str__(self) -> str:
        lines = [f"equiv_probe on {type(self.live.network).__name__}"]
        lines += [f"  {name:<40} {value:.6g}" for name, value in self.compute(window=False).items()]
        return "\n".join([*lines, *(f"  failed: {failure}" for failure in self.failures)])
