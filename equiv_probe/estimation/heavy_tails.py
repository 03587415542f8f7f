r"""Few carry the sum: how many structures or rotations a mean really rests on, and an interval for such means.

The variance of a sum is known from its terms only if many of them matter. The effective number of terms is
``(Σ x)² / Σ x²`` (Kish, Survey Sampling (1965), § 11.7): of n equal terms n, of one that outweighs all others 1.

With heavy tails Student's interval covers less than it says, on any scale: of log-normal structures with σ = 2 and
n = 100, which are worth 11, 76 % instead of 95 %, on the log scale 81 %. The bootstrap-t interval (Efron, The
Jackknife, the Bootstrap and Other Resampling Plans (1982), § 10.10; Hall, Ann. Statist. 16 (1988) 927) takes the
skewness of the studentised mean from the sample: 88 %. No method without a model of the tail does much better, since
the terms that matter have not been seen: then it must be said that few carry the number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

RESAMPLES = 999
HEAVY = 0.5
"""Part of the structures that they are worth, below which an interval is taken from the bootstrap."""
_AT_ONCE = 2_000_000


def effective_number(terms: Vector) -> float:
    """How many equal terms would make a sum as certain as these do; of sizes, since estimates may be below zero.

    >>> effective_number(np.ones(7)), effective_number(np.array([1.0, 0.0, 0.0]))
    (7.0, 1.0)
    """
    sizes = np.abs(terms)
    square = float((sizes**2).sum())
    return float(sizes.sum()) ** 2 / square if square > 0 else float(len(sizes))


def bootstrap_t(top: Vector, bottom: Vector, *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap-t interval of ``Σ top / Σ bottom`` over structures ``(n,)``, both above zero, on the log scale.

    Both ends are NaN where nothing can be said.
    """
    n = len(top)
    value, stderr = _ratio(top[None], bottom[None])
    if n < 3 or not (value[0] > 0 and stderr[0] > 0):
        return math.nan, math.nan
    rng, scores = np.random.default_rng(seed), []
    step = max(1, _AT_ONCE // n)
    for start in range(0, RESAMPLES, step):
        rows = rng.integers(0, n, (min(step, RESAMPLES - start), n))
        drawn, spread = _ratio(top[rows], bottom[rows])
        known = (drawn > 0) & (spread > 0)
        scores.append(np.log(drawn[known] / value[0]) * drawn[known] / spread[known])
    low, high = np.quantile(np.concatenate(scores), [0.025, 0.975])
    relative = stderr[0] / value[0]
    return float(value[0] * np.exp(-high * relative)), float(value[0] * np.exp(min(-low * relative, 700.0)))


def _ratio(top: Vector, bottom: Vector) -> tuple[Vector, Vector]:
    """``Σ top / Σ bottom`` of rows ``(B, n)`` and its standard error by the delta method."""
    below = bottom.sum(1)
    value = top.sum(1) / below
    n = top.shape[1]
    scatter = ((top - value[:, None] * bottom) ** 2).sum(1)
    return value, np.sqrt(n / (n - 1) * scatter) / np.abs(below)
