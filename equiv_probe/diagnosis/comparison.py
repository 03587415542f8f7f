"""How much of an error goes where something is changed, and whether chance alone would make as much of it go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.stats import f as fisher

if TYPE_CHECKING:
    from torch import Tensor

CHANCE = 1e-3
"""Probability that chance alone makes an error go, which no experiment that is believed may exceed."""


@dataclass(frozen=True)
class Compared:
    """An output's error before and after a change: roots, the part of the square that goes, and whether by chance."""

    before: float
    after: float
    part: float
    certain: bool


def compared(before: Tensor, after: Tensor, floor: float = 0.0, *, candidates: int = 1) -> Compared:
    """Compare variances over rotations.

    Args:
        before: values rotated back, ``(K, *S)``.
        after: of the changed model, at as many rotations.
        floor: mean square that rounding leaves in any case.
        candidates: how many changes were tried, of which this is the best.
    """
    had, left = variance(before), variance(after)
    excess = had - floor
    ratio = max(left - floor, 0.0) / excess if excess > 0 else math.nan
    # Of equal variances their ratio follows Fisher's F; components of one output are not independent: three count.
    free = (len(after) - 1) * min(3, after[0].numel())
    limit = float(fisher.ppf(CHANCE / candidates, free, free))
    return Compared(math.sqrt(had), math.sqrt(left), 1 - ratio, left < limit * had)


def variance(values: Tensor) -> float:
    """Over the first axis, without bias, mean over all other axes."""
    return float(values.double().var(0, correction=1).mean())


def root(values: Tensor) -> float:
    """Root mean square."""
    return math.sqrt(float(values.double().square().mean()))
