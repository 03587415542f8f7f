r"""The drift of an energy along a trajectory, with an error bar that neighbouring rows do not make too small.

A straight line by least squares; its error by the jackknife over six consecutive blocks of rows, Student t with four
degrees of freedom (a line takes one more than a mean). Blocks have to be longer than the rows remember: with fewer
than eight correlation times there is no error bar. A short series shows less of its correlation than there is, so the
correlation time is the larger of two estimates: the residuals' autocorrelations, summed up to five times the sum
(Sokal), and ``(1 + φ)/(1 − φ)`` of the largest ``φ`` that the first of them allows (one-sided 95 %), after correction
for the line that was taken off, which lowers it by ``(2 + 4φ)/n`` on average.

Source: Künsch, Ann. Statist. 17, 1217 (1989) for the block jackknife; Kendall, Biometrika 41, 403 (1954) for the bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

BLOCKS = 6
FEWEST_ROWS = 4 * BLOCKS
TIMES = 8.0
"""Rows in correlation times, at least; with fewer the interval covers less than it says."""


@dataclass(frozen=True)
class Drift:
    """A straight line through energies.

    Attributes:
        slope: unit of the energies over that of the times.
        stderr: its standard error; NaN where the series is too short to have one.
        interval: 95 %; NaN likewise.
        rows: how many there are.
        correlation: over how many rows the residuals remember; one if they do not.
    """

    slope: float
    stderr: float
    interval: tuple[float, float]
    rows: int
    correlation: float

    def in_words(self, unit: str) -> str:
        """The slope and its error, with the interval beside it: of six blocks it is nearly three standard errors."""
        drift, bar = number(self.slope), "no error bar: too few rows, or too much alike from row to row"
        if math.isfinite(self.stderr):
            drift = f"{drift} ± {number(self.stderr, 2)}"
            bar = f"95 % interval [{number(self.interval[0])}, {number(self.interval[1])}]"
        return f"{drift} {unit} (straight line through {self.rows} rows; {bar})"


def energy_drift(times: Any, energies: Any) -> Drift:
    """Fit a straight line through rows that may be correlated.

    Args:
        times: increasing ``(n,)``, at least three.
        energies: at these times ``(n,)``, finite.

    >>> line = energy_drift(range(50), [2.0 * t + (-1) ** t for t in range(50)])
    >>> round(line.slope, 2), line.interval[0] < 2.0 < line.interval[1]
    (2.0, True)
    """
    x, y = np.asarray(times, dtype=float), np.asarray(energies, dtype=float)
    count = len(x)
    slope = _slope(x, y)
    residuals = y - y.mean() - slope * (x - x.mean())
    # Rounding alone leaves nothing that could remember.
    exact = float(np.abs(residuals).max()) <= 1e-12 * float(np.abs(y).max())
    correlation = 1.0 if exact else _correlation(residuals)
    if count < max(FEWEST_ROWS, TIMES * correlation):
        return Drift(slope, math.nan, (math.nan, math.nan), count, correlation)
    without = [_slope(np.delete(x, block), np.delete(y, block)) for block in np.array_split(np.arange(count), BLOCKS)]
    error = math.sqrt((BLOCKS - 1) / BLOCKS * float(np.sum((np.array(without) - slope) ** 2)))
    half = float(student.ppf(0.975, BLOCKS - 2)) * error
    return Drift(slope, error, (slope - half, slope + half), count, correlation)


def _slope(x: Vector, y: Vector) -> float:
    away = x - x.mean()
    return float(away @ y / (away @ away))


def _correlation(residuals: Vector) -> float:
    """Over how many rows residuals of a straight line remember."""
    count = len(residuals)
    power = np.abs(np.fft.rfft(residuals, 2 * count)) ** 2
    covariances = np.fft.irfft(power)[:count]
    correlations = covariances / covariances[0]
    sums = 2 * np.cumsum(correlations) - 1
    window = np.flatnonzero(np.arange(count) >= 5 * sums)
    summed = float(sums[window[0]]) if len(window) else float(count)
    if count <= 4:
        return float(count)
    first = (float(correlations[1]) + 2 / count) / (1 - 4 / count)
    if first < 1:
        first += 1.645 * math.sqrt(max(0.0, 1 - first**2) / count)
    exponential = (1 + first) / (1 - first) if first < 1 else math.inf
    return max(1.0, summed, exponential)
