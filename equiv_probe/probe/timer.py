"""How long measurements take: by the host's clock, and by the device's own, which nobody waits for."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.live.random_state import cuda_in_use

if TYPE_CHECKING:
    from collections.abc import Iterator


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
