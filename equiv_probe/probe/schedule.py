"""When to measure: every so many calls, by a rule, in a random part of the calls, or as often as the cost allows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from equiv_probe.errors import EquivProbeError
from equiv_probe.probe.account import Account
from equiv_probe.probe.affordable import UNLIMITED, Affordable, SoFar

if TYPE_CHECKING:
    from equiv_probe.probe.account import Timer
    from equiv_probe.probe.affordable import Size

Cadence = int | Literal["auto", "epoch"] | Callable[[int], bool] | None
"""Every so many calls; as the cost allows; the first of every epoch; a rule that is asked with the number of the call;
or never."""

Warmup = int | Literal["earned"]
"""Calls at the beginning that are left alone: so many, or until the cost allows the first measurement."""

FEW = 4
"""Measurements for which an epoch of few calls is made to last."""


@dataclass
class Schedule:
    """Decides which calls are measured, and keeps count of them.

    Args:
        every: one call in so many; ``"auto"`` for as many as the account has room for; ``"epoch"`` for the first after
            each :meth:`begin_epoch`; a rule ``step -> bool``; None is never.
        warmup: calls at the beginning that are left alone, or, where the cost decides, ``"earned"``: until it allows
            the first measurement.
        at_random: the one call in each run of ``every`` is drawn at random, not the first: a validation set's batches
            come in the same order every epoch.
        limited: whether a call that is due is measured only if the account has room for it. The first one always is,
            in the cheapest way, since nobody knows yet what it costs.
        seed: of the random choice, which is its own.
        account: of the run's time; None is one of its own, without a limit.
        few: of the rotations of a whole measurement those of one by few, which takes the place of one that the account
            has no room for.

    Raises:
        EquivProbeError: ``every`` or ``warmup`` is something else.

    >>> schedule = Schedule(every=3, warmup=2)
    >>> [step for step in range(10) if schedule.due()]
    [2, 5, 8]
    """

    every: Cadence = UNLIMITED
    warmup: Warmup = 0
    at_random: bool = False
    limited: bool = False
    seed: int = 0
    account: Account = field(default_factory=Account)
    few: float = 1.0
    step: int = field(default=0, init=False)
    was_due: bool = field(default=False, init=False)
    measured: int = field(default=0, init=False)
    last: bool | None = field(default=None, init=False)
    """Whether the present epoch is the last one: it is measured whatever comes; until it does, half is kept for it."""
    size: Size = field(default="whole", init=False)
    """What the present measurement may take."""
    fraction: float = field(default=1.0, init=False)
    """Of the structures of a batch those that a measurement of a part takes, as far as is known."""
    small: int = field(default=0, init=False)
    """Measurements that were not whole."""
    period: int | None = field(default=None, init=False)
    """Calls between two measurements, where the cost decides."""
    affordable: Affordable = field(init=False)

    def __post_init__(self) -> None:
        if not (self.every is None or self.every in ("auto", "epoch") or callable(self.every) or _is_count(self.every)):
            expected = 'a number of calls of 1 or more, "auto", "epoch", a rule, or None for never'
            raise EquivProbeError(f"every={self.every!r}", expected, "every=50")
        if not (self.warmup == "earned" or (isinstance(self.warmup, int) and self.warmup >= 0)):
            raise EquivProbeError(f"warmup={self.warmup!r}", 'a number of calls, or "earned"', "warmup=100")
        self._random = random.Random(self.seed)
        self._left_alone = 0 if self.warmup == "earned" else self.warmup
        self._chosen, self._origin = 0, self._left_alone
        self._length: int | None = None
        self._armed = self._fresh = True
        self._next: float = self._left_alone
        """The number of the call at which it is asked again whether it is due; before that none is."""
        self._owed: float | None = None
        """Where a measurement was put off by one call, what comes after it."""
        self._counted = 0
        self.affordable = Affordable(self.account, self.at_random, self.warmup == "earned")

    def begin_epoch(self, calls: float | None = None, last: bool | None = None) -> None:
        """Start a new epoch: at random places, drawn anew, at least one of its calls is due.

        Args:
            calls: in this epoch, if that is known; of few calls at random places a larger part is measured, since an
                error bar over batches needs several of them: about four, as far as the cost allows.
            last: whether it is the last one, if that is known.
        """
        self._armed = self._fresh = True
        self.last = last
        if self.every == "epoch" or self.at_random:
            self._next = max(self.step, self._left_alone)
        if self.at_random:
            self._origin = max(self.step, self._left_alone)
            self._length = int(calls) if calls is not None and calls < float("inf") else None

    def due(self) -> bool:
        """Count one call, and say whether it is to be measured."""
        self.account.start()
        step, self.step = self.step, self.step + 1
        self.was_due = step >= self._next and self._decided(step)
        self._counted += 1
        if self.was_due:
            self.measured += 1
            self.small += self.size != "whole"
        return self.was_due

    def passes(self) -> bool:
        """Count one call if it is known not to be due, and say whether it was counted."""
        if self.step >= self._next or not self._counted:
            return False
        self.step += 1
        self._counted += 1
        self.was_due = False
        return True

    def passed(self, calls: int) -> None:
        """Count calls that were not due, as :attr:`ahead` said."""
        self.account.start()
        self.step += calls
        self._counted += calls
        self.was_due = False

    @property
    def ahead(self) -> float:
        """How many calls, from the next one on, are known not to be due; infinity for all of them."""
        return math.inf if self.every is None else max(0, self._next - self.step)

    def postpone(self) -> None:
        """Let the next call be due for the present one, which could not be measured."""
        self.measured -= self.was_due
        self.small -= self.was_due and self.size != "whole"
        self.was_due = False
        self._owed, self._next = self._next, self.step

    def _decided(self, step: int) -> bool:
        if self._owed is not None:
            self._next, self._owed = self._owed, None
            return True
        return self._paced(step) if self.every == "auto" else self._wanted(step) and self._affordable()

    def _wanted(self, step: int) -> bool:
        """Whether a cadence that was chosen says so; before the next call that it may choose nobody asks again."""
        if self.every is None:
            self._next = math.inf
            return False
        if self.every == "epoch":
            wanted, self._armed, self._next = self._armed, False, math.inf
            return wanted
        if callable(self.every):
            return bool(self.every(step))
        assert isinstance(self.every, int)
        since = step - self._origin
        run = self.every if self._length is None else min(self.every, max(1, self._length // FEW))
        place = since % run
        if place == 0:
            length = run if self._length is None else max(1, min(run, self._length - since))
            self._chosen = self._random.randrange(length) if self.at_random else 0
        self._next = step - place + (self._chosen if place < self._chosen else run)
        return place == self._chosen

    def _affordable(self) -> bool:
        if not self.limited or self.account.cost is None:
            return True
        work: dict[Size, float] = {"whole": 1.0, "few": self.few, "part": self.few * self.fraction}
        size = self.affordable.size(self._so_far, self.size, work, fresh=self._fresh)
        if size is None:
            return False
        self.size, self._fresh = size, False
        return True

    def _paced(self, step: int) -> bool:
        """Whether to measure where the cost decides how often."""
        due, self._next, self.period = self.affordable.pace(step, self._so_far)
        self.size = "whole" if self.measured or self.account.cost is None else "part"
        return due

    @property
    def _so_far(self) -> SoFar:
        return SoFar(self._counted, self.measured, self.last)

    @property
    def began(self) -> float:
        """When the run began, by this process's clock."""
        self.account.start()
        assert self.account.began is not None
        return self.account.began

    @began.setter
    def began(self, moment: float) -> None:
        self.account.began = moment

    @property
    def elapsed(self) -> float:
        """Seconds since then."""
        return self.account.elapsed

    @property
    def timer(self) -> Timer:
        """Of measurements."""
        return self.affordable.timer

    @property
    def seconds(self) -> float:
        """That went into measuring."""
        return self.timer.seconds

    def spent(self, seconds: float) -> None:
        """Count time that a measurement took."""
        self.timer.add(seconds)

    def __str__(self) -> str:
        often = "by a rule" if callable(self.every) else f"every {self.every}"
        if self.every == "auto":
            often = f"every {self.period} by cost" if self.period else "by cost"
        few = f", {self.small} of them by few rotations or structures" if self.small else ""
        return f"{often}, {self.measured} of {self.step} measured{few}"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        places: dict[str, Any] = {
            "chosen": self._chosen,
            "origin": self._origin,
            "length": self._length,
            "armed": self._armed,
        }
        places |= {"next": self._next, "period": self.period}
        return {"step": self.step, "random": self._random.getstate(), **places}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        self.step, self._armed = state["step"], state["armed"]
        self._chosen, self._origin, self._length = state["chosen"], state["origin"], state["length"]
        self._next, self.period = state.get("next", self.step), state.get("period")
        version, internal, gauss = state["random"]
        self._random.setstate((version, tuple(internal), gauss))


def _is_count(every: Any) -> bool:
    return isinstance(every, int) and not isinstance(every, bool) and every >= 1
