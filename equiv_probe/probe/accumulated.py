"""What a probe has measured so far: running estimates, the same in bins of an input, and gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.running import RunningEstimates
from equiv_probe.results.over_time import OverTime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.estimation.measurement import Measurement
    from equiv_probe.live.capture import Call
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.probe.bins import Over
    from equiv_probe.probe.recorded import RecordedStep
    from equiv_probe.probe.replay import Replay
    from equiv_probe.probe.step_gradients import StepGradients


class Accumulated:
    """The estimates so far.

    Args:
        window: measurements in the running estimate.
        over: the input in whose bins everything is measured too.
        gradients: what measures gradients.
    """

    def __init__(self, window: int, over: Over | None, gradients: StepGradients | None) -> None:
        self.running = RunningEstimates(window)
        self.over, self.gradients = over, gradients

    def add_call(self, stage: str, live: LiveOrbit, call: Call, measured: Mapping[str, Measurement]) -> None:
        """Take in what was measured at a call of the network, structure by structure."""
        for name, found in measured.items():
            equiv = found.estimate.equiv
            total = found.estimate.total if found.labelled else torch.full_like(equiv, torch.nan)
            running = self.running.add(stage, name, equiv, total, found.weight)
            running.labelled, running.loss = found.labelled, found.loss
        if self.over is not None:
            self.over.add_calls(self.running, stage, self._values(live, call), measured)

    def add_step(self, stage: str, run: RecordedStep, replay: Replay, *, look: bool) -> None:
        """Take in the numbers of a step.

        Args:
            stage: whose.
            run: the step.
            replay: what came of it.
            look: whether the device may be waited for, to say what is not in bins.
        """
        for name, found in replay.scalars.items():
            one = found.total[None]
            pseudo = found.pseudo_equiv, found.pseudo_total
            self.running.add(stage, name, found.equiv[None], one, torch.ones_like(one), pseudo=pseudo)
        if self.over is not None:
            values = [self._values(run.live, one.call) for one in run.calls]
            self.over.add_step(self.running, stage, values, replay, look=look)

    def _values(self, live: LiveOrbit, call: Call) -> Tensor:
        """Of the input that is binned over, for each structure of a call, ``(U,)``."""
        assert self.over is not None
        return self.over.values(call.inputs, live.structures(call.inputs))

    def compute(self, *, window: bool) -> dict[str, float]:
        """As :meth:`equiv_probe.Probe.compute`."""
        found = self.running.compute(window=window)
        for stage, name in self.binned:
            in_bins = self.over_time(stage, name, window=window).values()
            found.update({f"equiv/{stage}/{name}/{key}": value for key, value in in_bins.items()})
        if self.gradients is not None:
            shown = self.gradients.latest() if window else self.gradients.everything
            found.update({f"equiv/train/{key}": float(v) for key, v in self.gradients.values(shown).items()})
        return found

    @property
    def binned(self) -> list[tuple[str, str]]:
        """Stages and outputs that are in bins of an input; fetches counts from the device."""
        return [key for key, running in self.running.items() if self.over is not None and running.binned.count]

    def over_time(self, stage: str, name: str | None, *, window: bool | None) -> OverTime:
        """As :meth:`equiv_probe.Probe.over_time`."""
        there = self.binned
        found = next((key for key in there if key[0] == stage and name in {None, key[1]}), None)
        if self.over is None or found is None:
            raise EquivProbeError(
                f"nothing in bins for {stage}/{name or '...'}",
                ", ".join(map("/".join, there)) or "a measurement",
                " ".join(self.over.notes) if self.over and self.over.notes else _there(there),
            )
        running = self.running[found]
        rows = running.binned.latest if (stage == "train" if window is None else window) else running.binned.everything
        assert rows is not None
        return OverTime.of(
            self.over.name, self.over.edges.tolist(), found, rows, labelled=running.labelled, loss=running.loss
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {
            "running": self.running.state_dict(),
            "over": None if self.over is None else self.over.state_dict(),
            "gradients": None if self.gradients is None else self.gradients.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        same_bins = self.over is not None and self.over.continues(state.get("over"))
        self.running.load_state_dict(state["running"], binned=same_bins)
        if self.gradients is not None and state.get("gradients"):
            self.gradients.load_state_dict(state["gradients"])


def _there(binned: list[tuple[str, str]]) -> str:
    """How to ask for what is in bins."""
    return 'probe.over_time("{}", "{}")'.format(*binned[0]) if binned else 'Probe(..., over="t")'
