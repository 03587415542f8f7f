"""What a run's account has room for: how much to measure at a call that is due, and how often."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from equiv_probe.probe.account import Timer
from equiv_probe.probe.agreement import Agreement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe.probe.account import Account

Size = Literal["whole", "few", "part"]
"""All rotations of the plan; few of them; or few for some structures of the batch alone."""
UNLIMITED = 50
"""Calls between two measurements that follow the cost, where that has no limit."""
SLACK = 0.98
"""Of the calls that the cost asks for those that will do: seconds are not known better."""
KEPT = 0.5
"""Part of what evaluation may take that is kept for the last epoch."""
SECOND = 2.0
"""Calls that a measurement is expected to take as long as, where none of a whole batch was made yet."""
OPENING = 20.0, 0.1
"""Calls that the first measurement is expected to take as long as, with all that it infers and checks; and seconds."""
FIRST = 10
"""Calls after the first measurement until it is known what a call takes."""


class SoFar(NamedTuple):
    """What was counted by now.

    Attributes:
        calls: in this process.
        measured: of them.
        last: whether the present epoch is the last one, if that is known.
    """

    calls: int
    measured: int
    last: bool | None


class Pace(NamedTuple):
    """Whether to measure now, the number of the call at which to ask again, and how many are to lie between two."""

    due: bool
    again: float
    period: int | None


@dataclass
class Affordable:
    """What measuring may take at the calls of one schedule, decided by one process for all.

    Args:
        account: of the run's time.
        evaluation: whether the calls are an evaluation's.
        earned: whether the account must have room for the first measurement too.
    """

    account: Account
    evaluation: bool
    earned: bool
    timer: Timer = field(default_factory=Timer, init=False)
    _agreement: Agreement = field(default_factory=Agreement, init=False)

    def __post_init__(self) -> None:
        (self.account.evaluation if self.evaluation else self.account.training).append(self.timer)

    def size(self, so_far: SoFar, before: Size, work: Mapping[Size, float], *, fresh: bool) -> Size | None:
        """How much to measure at a call that is due; None for nothing.

        Args:
            so_far: what was counted.
            before: how much was measured the last time.
            work: beside a whole measurement that of each size, the largest first.
            fresh: whether nothing was measured in this epoch.
        """
        (found,) = self._agreement.decide(lambda known: [self._size(known, so_far, before, work, fresh)], self._known)
        size: Size | None = found
        return size

    def pace(self, step: int, so_far: SoFar) -> Pace:
        """Whether to measure at a call, where the cost decides how often."""
        return Pace(*self._agreement.decide(lambda known: list(self._pace(step, so_far, known)), self._known))

    @property
    def _known(self) -> tuple[float, float]:
        """Seconds that measuring took, in all and the last time."""
        return self.timer.seconds, self.timer.last

    def _size(
        self, known: Sequence[float], so_far: SoFar, before: Size, work: Mapping[Size, float], fresh: bool
    ) -> Size | None:
        last, room = known[1], self._room(known[0], so_far)
        if not so_far.measured:
            # What a measurement in training took is a guess; where nothing is known, it is tried.
            guess = 2 * max((timer.last for timer in self.account.training), default=0.0)
            if self.earned:
                return "part" if so_far.calls and (guess or self._opening(so_far)) <= room else None
            return "part" if so_far.last is not False or guess <= room else None
        whole = last / work[before]
        if whole <= room:
            return "whole"
        affordable = next((one for one in work if whole * work[one] <= room), None)
        return (affordable or ("part" if so_far.last and not self.earned else None)) if fresh else None

    def _pace(self, step: int, so_far: SoFar, known: Sequence[float]) -> Pace:
        if self.account.cost is None:
            return Pace(True, step + UNLIMITED, UNLIMITED)
        measured = so_far.measured
        if not measured and not self.earned:
            return Pace(True, step + FIRST, None)
        if not measured and so_far.calls < FIRST:
            return Pace(False, step + FIRST, None)
        seconds, last = known
        room, rate = self._room(seconds, so_far), self.account.rate(evaluation=self.evaluation)
        each = self._each(so_far)
        # The first measurement infers and checks besides, and may be of a few structures: it must be earned, but is not
        # what the next one takes, of which the floor is a part.
        one = last if measured > 1 else SECOND * each if measured else self._opening(so_far)
        period = rounded_up(SLACK * max(one, last / 4) / (rate * each))
        if one <= room:
            return Pace(True, step + (period if measured else FIRST), period if measured else None)
        wait = min(math.ceil((one - room) / (rate * each)), max(step, FIRST))  # what is not known well is asked again
        return Pace(False, step + max(1, wait), period)

    def _room(self, seconds: float, so_far: SoFar) -> float:
        """What the account has room for, if measuring took some seconds: in the slowest process more than here."""
        kept = KEPT if so_far.last is False else 0.0
        return self.account.room(evaluation=self.evaluation, kept=kept) - (seconds - self.timer.seconds)

    def _each(self, so_far: SoFar) -> float:
        """Seconds of the run for each call, without measuring."""
        return max(self.account.elapsed - self.account.spent, 1e-9) / max(so_far.calls, 1)

    def _opening(self, so_far: SoFar) -> float:
        """Seconds that the first measurement is expected to take."""
        calls, seconds = OPENING
        return max(calls * self._each(so_far), seconds)


def rounded_up(calls: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ….

    >>> [rounded_up(calls) for calls in (0.3, 1, 7, 101)]
    [1, 1, 10, 200]
    """
    scale = int(10 ** max(0, math.floor(math.log10(max(calls, 1)))))
    return next(scale * digit for digit in (1, 2, 5, 10) if scale * digit >= calls)
