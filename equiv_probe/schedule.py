"""When to measure: every so many calls, by a rule, in a random part of the calls, within a time budget."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from equiv_probe.errors import EquivProbeError

Cadence = int | Callable[[int], bool] | None
"""Every so many calls, or a rule that is asked with the number of the call, or never."""


@dataclass
class Schedule:
    """Decides which calls are measured, and keeps count of them.

    Args:
        every: one call in so many; a rule ``step -> bool``; None is never.
        warmup: calls at the beginning that are left alone.
        at_random: the one call in each run of ``every`` is drawn at random, not the first: a validation set's batches
            come in the same order every epoch.
        budget: largest share of the elapsed time that may go into measuring; None is no limit. The first call that is
            due is measured whatever it costs, since nobody knows yet.
        seed: of the random choice, which is its own.

    >>> schedule = Schedule(every=3, warmup=2)
    >>> [step for step in range(10) if schedule.due()]
    [2, 5, 8]
    """

    every: Cadence = 50
    warmup: int = 0
    at_random: bool = False
    budget: float | None = None
    seed: int = 0
    step: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    began: float = field(default_factory=time.perf_counter, init=False)

    def __post_init__(self) -> None:
        if isinstance(self.every, int) and self.every < 1:
            raise EquivProbeError(f"every={self.every}", "a number of calls of 1 or more, a rule, or None for never")
        self._random = random.Random(self.seed)
        self._chosen = 0

    def due(self) -> bool:
        """Count one call, and say whether it is to be measured."""
        step, self.step = self.step, self.step + 1
        since = step - self.warmup
        if self.every is None or since < 0:
            return False
        if callable(self.every):
            wanted = bool(self.every(step))
        else:
            place = since % self.every
            if place == 0:
                self._chosen = self._random.randrange(self.every) if self.at_random else 0
            wanted = place == self._chosen
        return wanted and self._affordable()

    def _affordable(self) -> bool:
        elapsed = time.perf_counter() - self.began
        return self.budget is None or self.seconds <= self.budget * elapsed

    def spent(self, seconds: float) -> None:
        """Count time that a measurement took."""
        self.seconds += seconds
