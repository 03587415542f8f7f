"""The schedules of a probe, by what is counted and by stage, and the clock that they go by."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.live.isolation import cuda_in_use
from equiv_probe.probe.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from equiv_probe.probe.schedule import Cadence


class Schedules(dict[tuple[str, str], Schedule]):
    """By what is counted, ``"call"``, ``"step"`` or ``"gradients"``, and stage; made when first asked for.

    Args:
        every: cadence in training.
        warmup: calls or steps at the beginning of training that are left alone.
        full: cadence in evaluation, at random places.
        budget: largest share of the elapsed time that evaluation may spend on measuring.
        gradients: cadence of gradients.
        seed: of the random places.
    """

    def __init__(
        self,
        every: Cadence,
        warmup: int,
        full: Cadence,
        budget: float | None,
        *,
        gradients: Cadence,
        seed: int,
    ) -> None:
        super().__init__()
        self._training: dict[str, Any] = {"every": every, "warmup": warmup, "seed": seed}
        self._evaluation: dict[str, Any] = {"every": full, "at_random": True, "budget": budget, "seed": seed}
        self._gradients: dict[str, Any] = {**self._training, "every": gradients}

    def __missing__(self, key: tuple[str, str]) -> Schedule:
        kind, stage = key
        of_stage = self._training if stage == "train" else self._evaluation
        self[key] = Schedule(**(self._gradients if kind == "gradients" else of_stage))
        return self[key]

    @contextmanager
    def timed(self, kind: str, stage: str) -> Iterator[None]:
        """A context whose time is counted as spent on measuring."""
        began = clock(stage)
        try:
            yield
        finally:
            self[kind, stage].spent(clock(stage) - began)

    def state_dict(self) -> dict[tuple[str, str], dict[str, Any]]:
        """What a checkpoint needs."""
        return {key: schedule.state_dict() for key, schedule in self.items()}

    def load_state_dict(self, state: dict[tuple[str, str], dict[str, Any]]) -> None:
        """Undo :meth:`state_dict`."""
        for key, stored in state.items():
            self[key].load_state_dict(stored)


def clock(stage: str) -> float:
    """Seconds; off the training path after waiting for the device, so that the budget counts what was computed."""
    if stage != "train" and cuda_in_use():
        torch.cuda.synchronize()
    return time.perf_counter()
