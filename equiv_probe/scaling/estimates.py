"""A number with its interval, and intervals from resamples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.special import ndtr, ndtri

from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from equiv_probe.scaling.solver import Array

Interval = Literal["percentile", "bca"]


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval.

    Attributes:
        value: the estimate.
        low: end of the interval; 0 or minus infinity where the data do not bound it.
        high: the other end; infinity where the data do not bound it. Both are NaN where there is no interval.

    >>> print(Estimate(0.5, 0.42, 0.61))
    0.500 [0.420, 0.610]
    >>> print(Estimate(2.0, 1.5, float("inf")))
    2.00 [1.50, ∞)
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{shown(self.value)} {self.interval}".rstrip()

    @property
    def interval(self) -> str:
        """The interval as people write it; nothing where there is none."""
        if np.isnan(self.low) or np.isnan(self.high):
            return ""
        low = "(−∞" if self.low == -np.inf else f"[{shown(self.low)}"
        return f"{low}, {'∞)' if self.high == np.inf else shown(self.high) + ']'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; an end without bound is the word ``"inf"`` or ``"-inf"``, for which JSON has no number."""
        return {key: _plain(getattr(self, key)) for key in ("value", "low", "high")}


def shown(value: float) -> str:
    """A number as people write it, infinity as its sign."""
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    return number(value)


def _plain(value: float) -> float | str | None:
    if np.isnan(value):
        return None
    return float(value) if np.isfinite(value) else str(float(value))


def interval_of(draws: Array, level: float, lowest: float = 0.0) -> tuple[float, float]:
    """The percentile interval of draws.

    Args:
        draws: ``(B,)``; infinities are values like others; NaN says that a resample does not know, and counts as
            whatever makes the interval longer.
        level: such as 0.95.
        lowest: the least possible value.
    """
    if not len(draws) or np.isnan(draws).all():
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    return _quantile(np.where(np.isnan(draws), lowest, draws), tail), _quantile(
        np.where(np.isnan(draws), np.inf, draws), 1 - tail
    )


def bca_of(draws: Array, value: float, jackknife: Array, level: float) -> tuple[float, float]:
    """The bias-corrected and accelerated interval (Efron, 1987).

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
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        shift = bias + ndtri(tail)
        ends.append(_quantile(draws, float(ndtr(bias + shift / (1 - acceleration * shift)))))
    return ends[0], ends[1]


def _quantile(draws: Array, part: float) -> float:
    """Of the order statistics themselves, since infinities cannot be interpolated."""
    ordered = np.sort(draws)
    place = part * (len(ordered) - 1)
    lower, upper = ordered[int(np.floor(place))], ordered[int(np.ceil(place))]
    if lower == upper or not np.isfinite(lower) or not np.isfinite(upper):
        return float(upper if part > 0.5 else lower)
    return float(lower + (place - np.floor(place)) * (upper - lower))
