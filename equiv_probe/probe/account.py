"""The time of a run, and what of it may go into measuring."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from equiv_probe.probe.timer import Timer

EVALUATION = 0.5
"""Part of the cost that is kept for evaluation, where there is evaluation and training follows the cost too."""
MEASURING = 0.5
"""Part of the cost that is left for measuring, however much goes into what is done around it."""


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
