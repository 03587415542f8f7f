r"""How much one estimate differs from another, and whether that is more than chance.

Everything compared is a ratio of sums over structures, ``θ = Σa / Σb``, and structure i moves it by its influence
``u_i = (1 − 1/n) (a_i − θ b_i) / (Σb − b_i)``, what leaving it out does (the jackknife's: with ``Σb`` in the place of
``Σb − b_i`` structures of great weight would seem to move less than they do, and p be too small). For the same
structures in both reports the difference has the variance ``n/(n−1) Σ (u_i − u'_i)²`` (paired: what makes a structure
hard is in both and drops out); otherwise the variances add. Student t, with Satterthwaite's degrees of freedom where
few structures make most of the variance. Errors and losses are compared on the log scale, by their ratio, shares by
their difference.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Samples: TypeAlias = Mapping[Hashable, tuple[float, float]]
"""``(a, b)`` by structure; the same structure has the same key in both (:mod:`equiv_probe.results.pairing`)."""
NAN = math.nan


@dataclass(frozen=True)
class Change:
    """Against the first report: a ratio or a difference, its 95 % interval, and how likely chance alone exceeds it.

    Attributes:
        value: the ratio or the difference.
        low: end of its 95 % interval.
        high: end of its 95 % interval.
        p: of this comparison alone, two-sided.
        how: what was compared with what.
        p_holm: corrected for all comparisons made with it (:func:`holm`).
    """

    value: float = NAN
    low: float = NAN
    high: float = NAN
    p: float = NAN
    how: str = ""
    p_holm: float = NAN


@dataclass(frozen=True)
class Sample:
    """A ratio of sums with the influence of every structure on it."""

    value: float
    influence: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Sequence[tuple[float, float]]) -> Sample:
        """From ``(a, b)`` of each structure."""
        a, b = np.array(rows, dtype=float).reshape(-1, 2).T
        value = float(a.sum() / b.sum()) if b.sum() else NAN
        with np.errstate(divide="ignore", invalid="ignore"):  # of one structure, or where one has all the weight
            return cls(value, (1 - 1 / len(a)) * (a - value * b) / (b.sum() - b))

    @property
    def variance(self) -> float:
        """Variance of the value; NaN below two structures."""
        count = len(self.influence)
        return count / (count - 1) * float((self.influence**2).sum()) if count > 1 else NAN

    @property
    def dof(self) -> float:
        """Degrees of freedom of the variance: n − 1, or fewer where structures scatter unequally.

        ``(Σσ²)² / Σσ⁴`` (Satterthwaite 1946), in which ``E u⁴ = 3σ⁴`` and ``E (Σu²)² = (Σσ²)² + 2 Σσ⁴``.
        """
        square, fourth = float((self.influence**2).sum()), float((self.influence**4).sum())
        most = float(len(self.influence) - 1)
        return min(most, max(1.0, 3 * square * square / fourth - 2)) if fourth > 0 else most

    def log(self) -> Sample:
        """The logarithm of the value, with the influences on it."""
        return Sample(math.log(self.value), self.influence / self.value)


def change(first: Samples, second: Samples, *, ratio: bool) -> Change:
    """How the second differs from the first.

    Args:
        first: ``(a, b)`` by structure.
        second: the same of the other report.
        ratio: compare on the log scale, and give the ratio of the values; if a value is not positive, nothing.

    Returns:
        The change, over the structures that both have if these are at least half of either.
    """
    common = [key for key in first if key in second]
    paired = len(common) > 1 and 2 * len(common) >= max(len(first), len(second))
    if paired:
        a, b = (Sample.of([samples[key] for key in common]) for samples in (first, second))
        how = f"paired, {len(common)} structures"
    else:
        a, b = (Sample.of(list(samples.values())) for samples in (first, second))
        how = f"not paired, {len(first)} and {len(second)} structures"
    if ratio:
        if not (a.value > 0 and b.value > 0):
            return Change(how=f"{how}; no ratio, since an estimate is not above zero")
        a, b = a.log(), b.log()
    if paired:
        both = Sample(0.0, a.influence - b.influence)
        variance, dof = both.variance, both.dof
    else:
        variance, dof = welch((a.variance, b.variance), (a.dof + 1, b.dof + 1))
    return tested(b.value - a.value, variance, dof, ratio=ratio, how=how)


def welch(variances: tuple[float, float], counts: tuple[float, float]) -> tuple[float, float]:
    """Variance of a difference of independent estimates, and its degrees of freedom (Satterthwaite 1946)."""
    total = sum(variances)
    below = sum(v * v / (n - 1) for v, n in zip(variances, counts, strict=True) if n > 1)
    return total, total * total / below if below > 0 else NAN


def tested(difference: float, variance: float, dof: float, *, ratio: bool, how: str) -> Change:
    """A change from a difference (of logarithms, for a ratio), its variance and the degrees of freedom of that."""
    back = _exp if ratio else float
    if not (math.isfinite(variance) and variance > 0 and dof >= 1):
        same = variance == 0 and difference == 0
        return Change(back(difference), p=1.0 if same else NAN, how=how)
    from scipy.special import stdtr, stdtrit

    error = math.sqrt(variance)
    reach = float(stdtrit(dof, 0.975)) * error
    p = 2 * float(stdtr(dof, -abs(difference) / error))
    return Change(back(difference), back(difference - reach), back(difference + reach), p, how)


def _exp(power: float) -> float:
    """Infinity where an estimate of almost nothing is uncertain by more than a double can say."""
    return math.exp(power) if power < 700 else math.inf


def holm(p: Sequence[float]) -> list[float]:
    """Correct probabilities for their number (Holm 1979): one below 5 % by chance in one of twenty families.

    Holds however the tests depend on each other.

    Args:
        p: of each test; NaN where none was made, which does not count.

    >>> holm([0.01, float("nan"), 0.04, 0.03])
    [0.03, nan, 0.06, 0.06]
    """
    order = sorted((value, place) for place, value in enumerate(p) if math.isfinite(value))
    found, most = [NAN] * len(p), 0.0
    for rank, (value, place) in enumerate(order):
        most = max(most, min(1.0, (len(order) - rank) * value))
        found[place] = most
    return found
