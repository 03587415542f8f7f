"""What measures gradients in a probe's steps. The probe asks for it by name, since it is built on top of the probe."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import torch
    from torch import Tensor

    from equiv_probe.probe.recorded import RecordedStep
    from equiv_probe.probe.schedule import Cadence
    from equiv_probe.rotations.plan import RotationPlan

Groups: TypeAlias = "Callable[[str], str | None] | torch.optim.Optimizer | Iterable[Mapping[str, Any]] | None"
"""Of parameters, as for :func:`equiv_probe.analysis.gradients`."""

IMPLEMENTATION = "equiv_probe.landscape.live_gradients:LiveGradients"


class StepGradients(Protocol):
    """Measures the gradients of ``L_mean`` and ``L_equiv`` in steps, and keeps them."""

    every: Cadence
    recent: Any
    everything: Any
    notes: list[str]

    def measure(
        self, run: RecordedStep, plan: RotationPlan, generator: torch.Generator, *, per_structure: bool | None
    ) -> None:
        """Differentiate a recorded step."""

    def latest(self) -> dict[str, Any]:
        """The last measurement of each output."""

    def new(self) -> dict[str, Any]:
        """What was measured since this was asked last."""

    def shown(self, recent: Mapping[str, Sequence[Any]] | None = None) -> dict[str, Any]:
        """For a report: plain numbers by output."""

    def values(self, found: Mapping[str, Any]) -> dict[str, Tensor]:
        """What is logged, by name."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`."""


def step_gradients(every: Cadence | bool, groups: Groups, window: int) -> StepGradients:
    """What measures them; arguments as for :class:`equiv_probe.Probe`."""
    module, name = IMPLEMENTATION.split(":")
    made: StepGradients = getattr(import_module(module), name)(every, groups, window)
    return made
