"""When to measure: every so many calls, by a rule, in a random part of the calls, within a time budget."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from equiv_probe.errors import EquivProbeError

Cadence = int | Literal["epoch"] | Callable[[int], bool] | None
"""Every so many calls, the first of every epoch, a rule that is asked with the number of the call, or never."""


FEW = 4
"""Measurements for which an epoch of few calls is made to last."""


@dataclass
class Schedule:
    """Decides which calls are measured, and keeps count of them.

    Args:
        every: one call in so many; ``"epoch"`` for the first after each :meth:`begin_epoch`; a rule ``step -> bool``;
            None is never.
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
    was_due: bool = field(default=False, init=False)
    measured: int = field(default=0, init=False)
    allowance: int | None = field(default=None, init=False)
    """Measurements still allowed, where it was settled beforehand; None goes by the clock."""

    def __post_init__(self) -> None:
        if not (self.every is None or self.every == "epoch" or callable(self.every) or _is_count(self.every)):
            expected = 'a number of calls of 1 or more, "epoch", a rule, or None for never'
            raise EquivProbeError(f"every={self.every!r}", expected, "every=50")
        self._random = random.Random(self.seed)
        self._chosen, self._origin = 0, self.warmup
        self._length: int | None = None
        self._armed = True

    def begin_epoch(self, calls: float | None = None) -> None:
        """Start a new epoch: at random places, drawn anew, at least one of its calls is due.

        Args:
            calls: in this epoch, if that is known; of few calls at random places a larger part is measured, since an
                error bar over batches needs several of them: about four, as far as the budget goes.
        """
        self._armed = True
        if self.at_random:
            self._origin = max(self.step, self.warmup)
            self._length = int(calls) if calls is not None and calls < float("inf") else None

    def due(self) -> bool:
        """Count one call, and say whether it is to be measured."""
        step, self.step = self.step, self.step + 1
        self.was_due = self._wanted(step) and self._affordable()
        self.measured += self.was_due
        return self.was_due

    def _wanted(self, step: int) -> bool:
        since = step - self._origin
        if self.every is None or since < 0:
            return False
        if self.every == "epoch":
            wanted, self._armed = self._armed, False
            return wanted
        if not isinstance(self.every, int):
            return bool(self.every(step))
        run = self.every if self._length is None else min(self.every, max(1, self._length // FEW))
        place = since % run
        if place == 0:
            length = run if self._length is None else max(1, min(run, self._length - since))
            self._chosen = self._random.randrange(length) if self.at_random else 0
        return place == self._chosen

    def _affordable(self) -> bool:
        if self.allowance is not None:
            self.allowance -= 1
            return self.allowance >= 0
        return self.budget is None or self.seconds <= self.budget * self.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds since the schedule began."""
        return time.perf_counter() - self.began

    def allowed(self) -> int:
        """How many measurements the budget has room for, if each costs what it cost so far; one at the least.

        For processes that must agree on what is measured, since each has a clock of its own.
        """
        if self.budget is None:
            return sys.maxsize
        if not self.seconds:
            return 1
        return max(1, int((self.budget * self.elapsed - self.seconds) * self.measured / self.seconds))

    def spent(self, seconds: float) -> None:
        """Count time that a measurement took."""
        self.seconds += seconds

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        places = {"chosen": self._chosen, "origin": self._origin, "length": self._length, "armed": self._armed}
        return {"step": self.step, "random": self._random.getstate(), **places}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        self.step, self._armed = state["step"], state["armed"]
        self._chosen, self._origin, self._length = state["chosen"], state["origin"], state["length"]
        version, internal, gauss = state["random"]
        self._random.setstate((version, tuple(internal), gauss))


def _is_count(every: Any) -> bool:
    return isinstance(every, int) and not isinstance(every, bool) and every >= 1
