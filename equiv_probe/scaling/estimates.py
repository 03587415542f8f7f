"""A number with its interval, intervals from resamples, and arrays in records."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from scipy.special import ndtr, ndtri

from equiv_probe.report.formatting import number
from equiv_probe.report.record import Part, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equiv_probe.scaling.solver import Array

    Numbers = Array
    Rows = Array
    Planes = Array
else:  # what is read from files is held to this, and made into arrays by :func:`as_arrays`
    Numbers = list[float]
    Rows = list[Numbers]
    Planes = list[Rows]

Interval = Literal["percentile", "bca"]
NAN_SPAN = (math.nan, math.nan)


class Estimate(Part, frozen=True):
    """A number with its confidence interval.

    Attributes:
        value: the estimate; infinity for what is never reached.
        low: end of the interval; 0 where the data do not bound it.
        high: the other end; infinity where the data do not bound it. Both are NaN where there is no interval.
        infinite: which of the three are infinite, since JSON has no number for that; follows from them.

    >>> print(Estimate(0.5, 0.42, 0.61))
    0.500 [0.420, 0.610]
    >>> print(Estimate(2.0, 1.5, float("inf")))
    2.00 [1.50, ∞)
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    infinite: tuple[Literal["value", "low", "high"], ...] = ()

    def __post_init__(self) -> None:
        """Put infinities where files have none."""
        for name in self.infinite:
            msgspec.structs.force_setattr(self, name, math.inf)
        infinite = tuple(name for name in ("value", "low", "high") if math.isinf(getattr(self, name)))
        msgspec.structs.force_setattr(self, "infinite", infinite)

    @property
    def bounded(self) -> bool:
        """Whether there is an interval with two ends."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{shown(self.value)} {self.interval}".rstrip()

    @property
    def interval(self) -> str:
        """The interval as people write it; nothing where there is none."""
        if math.isnan(self.low) or math.isnan(self.high):
            return ""
        return f"[{shown(self.low)}, {'∞)' if self.high == math.inf else shown(self.high) + ']'}"

    def span(self, level: float) -> tuple[float, float]:
        """The interval for a headline, which shows those of 95 % with two ends; else NaN."""
        return (self.low, self.high) if self.bounded and level == 0.95 else NAN_SPAN

    def row(self, prefix: str = "") -> dict[str, float]:
        """Value and interval as columns of a table of plain numbers."""
        return {prefix or "value": self.value, f"{prefix} low".strip(): self.low, f"{prefix} high".strip(): self.high}


def shown(value: float) -> str:
    """A number as people write it, infinity as its sign."""
    return "∞" if value == math.inf else number(value)


def as_arrays(record: Any, *names: str) -> None:
    """Make arrays of a new record's fields, which files hold as lists."""
    for name in names:
        msgspec.structs.force_setattr(record, name, np.asarray(getattr(record, name), dtype=float))


def estimate_of(value: float, draws: Array, level: float) -> Estimate:
    """An estimate with the percentile interval of its draws; see :func:`interval_of`."""
    return Estimate(float(value), *interval_of(draws, level))


def estimates_of(values: Array, level: float) -> list[Estimate]:
    """Estimates of columns, ``(1 + B, n)``: the value first, its draws below it."""
    return [estimate_of(one[0], one[1:], level) for one in values.T]


def interval_of(draws: Array, level: float, lowest: float = 0.0) -> tuple[float, float]:
    """The percentile interval of draws.

    Args:
        draws: ``(B,)``; infinities are values like others; NaN says that a resample does not know, and counts as
            whatever makes the interval longer.
        level: such as 0.95.
        lowest: the least possible value.
    """
    if not len(draws) or np.isnan(draws).all():
        return NAN_SPAN
    tail, missing = (1 - level) / 2, np.isnan(draws)
    low, high = np.where(missing, lowest, draws), np.where(missing, np.inf, draws)
    return _quantile(low, tail), _quantile(high, 1 - tail)


def bca_of(draws: Array, value: float, jackknife: Array, level: float) -> tuple[float, float]:
    """The bias-corrected and accelerated interval (Efron, 1987).

    ``scipy.stats.bootstrap`` has it for what it has drawn itself, without strata and groups.

    Args:
        draws: ``(B,)``.
        value: the estimate.
        jackknife: the estimates without one run each, ``(n,)``.
        level: such as 0.95.
    """
    if not np.isfinite(draws).all() or not np.isfinite(jackknife).all():
        return interval_of(draws, level)
    below = ((draws < value).mean() + (draws <= value).mean()) / 2
    bias = ndtri(np.clip(below, 1 / (2 * len(draws)), 1 - 1 / (2 * len(draws))))
    apart = jackknife.mean() - jackknife
    spread = (apart**2).sum() ** 1.5
    acceleration = 0.0 if spread == 0 else float((apart**3).sum() / (6 * spread))
    shift = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(draws, ndtr(bias + shift / (1 - acceleration * shift)))
    return float(low), float(high)


def _quantile(draws: Array, part: float) -> float:
    """NumPy's, but beside an infinity the order statistic itself, since infinities cannot be interpolated."""
    with np.errstate(invalid="ignore"):
        found = float(np.quantile(draws, part))
    return found if np.isfinite(found) else float(np.quantile(draws, part, method="higher" if part > 0.5 else "lower"))


def listed(items: Sequence[str]) -> str:
    """Texts one after the other, with "and" before the last."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


class Estimated(Record, frozen=True, kw_only=True):
    """A result of a fit of losses.

    Attributes:
        notes: what a reader must know to use the numbers.
        level: of the intervals.
        protocol: how it was made.
        name: of what was fitted, such as the model.
        source: of the runs.
        unit: of the loss.
    """

    notes: list[str] = msgspec.field(default_factory=list)
    level: float = 0.95
    protocol: dict[str, Any] = msgspec.field(default_factory=dict)
    name: str = ""
    source: str = ""
    unit: str = ""
