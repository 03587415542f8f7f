"""The time of a run and of measurements, and what of it may go into measuring."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.live.random_state import cuda_in_use

if TYPE_CHECKING:
    from collections.abc import Iterator

EVALUATION = 0.5
"""Part of the cost that is kept for evaluation, where there is evaluation and training follows the cost too."""
MEASURING = 0.5
"""Part of the cost that is left for measuring, however much goes into what is done around it."""


class Timer:
    """Adds up seconds.

    On a GPU the host goes on before the device is done: events are recorded there, and read as soon as they have
    passed. Of the two times the longer one counts, since either may hold the training up.
    """

    def __init__(self) -> None:
        self._seconds = self._last = 0.0
        self._running: list[tuple[float, Any, Any]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context whose time is counted."""
        began, start = time.perf_counter(), _event()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            if start is None:
                self.add(seconds)
            else:
                self._running.append((seconds, start, _event()))

    def add(self, seconds: float) -> None:
        """Count time that one measurement took."""
        self._seconds += seconds
        self._last = seconds

    @property
    def seconds(self) -> float:
        """All of them; of what the device has not finished yet, the host's."""
        self._read()
        return self._seconds + sum(seconds for seconds, _, _ in self._running)

    @property
    def last(self) -> float:
        """Of the last measurement, likewise."""
        self._read()
        return self._running[-1][0] if self._running else self._last

    def _read(self) -> None:
        while self._running and self._running[0][2].query():
            seconds, start, end = self._running.pop(0)
            self.add(max(seconds, start.elapsed_time(end) / 1000))


def _event() -> Any:
    """A moment on the device, to be asked for later; None without one."""
    if not cuda_in_use() or torch.cuda.is_current_stream_capturing():
        return None
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


@dataclass
class Account:
    """Elapsed time, and the share of it that measuring may take.

    Attributes:
        cost: that share; None is no limit.
        paced: whether training follows it too, and not a cadence that was chosen.
        began: when the first call was counted; None before that.
        training: the timers of what is measured in training.
        evaluation: likewise.
        around: seconds that went into what is done at steps that are not measured, and into logging.
    """

    cost: float | None = None
    paced: bool = False
    began: float | None = None
    training: list[Timer] = field(default_factory=list)
    evaluation: list[Timer] = field(default_factory=list)
    around: float = 0.0

    @contextmanager
    def attended(self) -> Iterator[None]:
        """A context whose time is not a measurement's, but is the run's cost all the same."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.around += time.perf_counter() - began

    def start(self) -> None:
        """Say that the run is under way."""
        if self.began is None:
            self.began = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return 0.0 if self.began is None else time.perf_counter() - self.began

    @property
    def spent(self) -> float:
        """Seconds that went into measuring, and what is done around it."""
        return _sum(self.training) + _sum(self.evaluation) + self.around

    def rate(self, *, evaluation: bool) -> float:
        """Seconds of measuring that are gained by each second of the run."""
        assert self.cost is not None
        both = self.paced and (evaluation or bool(self.evaluation))
        elapsed = self.elapsed
        left = max(self.cost - self.around / elapsed, MEASURING * self.cost) if elapsed else self.cost
        return left * ((EVALUATION if evaluation else 1 - EVALUATION) if both else 1.0)

    def room(self, *, evaluation: bool, kept: float = 0.0) -> float:
        """Seconds that may go into measuring now; negative after more was spent than the run has earned yet.

        Args:
            evaluation: whether in evaluation.
            kept: part of what was earned that is kept for later.
        """
        earned = (1 - kept) * self.rate(evaluation=evaluation) * self.elapsed
        return earned - _sum(self.evaluation if evaluation else self.training)


def _sum(timers: list[Timer]) -> float:
    return sum(timer.seconds for timer in timers)
