r"""The power with which a loss grows along a line: ``L(t) − L(0) ≈ b |t|^p`` at small t.

``log|L(t) − L(0)| = log b_± + p log|t| + c_± |t| + d_± t²`` is fitted by weighted least squares, with one p for both
sides and a coefficient and corrections for each: the next two orders of the expansion are in the fit, not in p.

Which t: from below, those where ``|L(t) − L(0)|`` is a hundred times what rounding makes of it; from above, the longest
range that begins there in which the corrections stay below 0.3 and the fit leaves no more than 0.5 %, or the noise. The
interval is Student t from the residuals, widened by how much p changes when one more order is fitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.estimation.estimates import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

ABOVE_FLOOR = 100.0
CORRECTION = 0.3
MISFIT = 0.005
FEWEST = 6
"""Points on a side: power, coefficient, two corrections, and two degrees of freedom."""


@dataclass(frozen=True)
class Exponent:
    """``L(t) − L(0) = coefficient |t|^power`` for ``low ≤ |t| ≤ high``.

    Attributes:
        power: p, with its interval; NaN where no range of t will do.
        coefficient: b, at t > 0 where there is such a side; negative where the loss falls.
        low: the smallest ``|t|`` used.
        high: the largest.
        points: how many.
        why: where there is no power, what is missing.
    """

    power: Estimate
    coefficient: float = math.nan
    low: float = math.nan
    high: float = math.nan
    points: int = 0
    why: str = ""


def growth_exponent(t: Values, change: Values, floor: float, errors: Values | None = None) -> Exponent:
    """Fit a power.

    Args:
        t: along the line, without zero, ``(T,)``, of one sign or both.
        change: ``L(t) − L(0)``, ``(T,)``.
        floor: what rounding makes of a change, in the loss's unit.
        errors: standard errors of ``change``, ``(T,)``; None is exact but for rounding.
    """
    errors = np.zeros_like(change) if errors is None else np.nan_to_num(errors)
    seen = np.isfinite(change) & (np.abs(change) > ABOVE_FLOOR * floor) & (np.abs(change) > 5 * errors)
    # From the first t on each side beyond which nothing drowns: a lone point below is luck.
    for sign in (-1, 1):
        side = np.sign(t) == sign
        seen &= ~side | (np.abs(t) > _drowned(np.abs(t[side & ~seen]), np.abs(t[side & seen])))
    sizes = np.unique(np.abs(t[seen]))
    best: Exponent | None = None
    for high in sizes[::-1]:
        use = seen & (np.abs(t) <= high)
        if min(int((use & (np.sign(t) == s)).sum()) for s in np.unique(np.sign(t[use]))) < FEWEST:
            continue
        best = _fitted(t[use], change[use], errors[use], floor)
        if best is not None:
            return best
    why = "too few points above rounding and noise" if len(sizes) < FEWEST else "no range in which it is one power of t"
    return Exponent(Estimate(math.nan), why=why if np.isfinite(change).any() else "not measured")


def _drowned(unseen: Values, seen: Values) -> float:
    """The largest of what is not seen below the bulk of what is; beyond that a loss may be infinite, or turn round."""
    below = unseen[unseen < (np.median(seen) if len(seen) else math.inf)]
    return float(below.max(initial=0.0))


def _fitted(t: Values, change: Values, errors: Values, floor: float) -> Exponent | None:
    sides = [np.sign(t) == s for s in (1, -1) if (np.sign(t) == s).any()]
    if any(len(np.unique(np.sign(change[side]))) > 1 for side in sides):
        return None  # it turns round
    size = np.abs(t)
    noise = np.hypot(errors, floor) / np.abs(change)
    scale = np.hypot(noise, 1e-12)
    y = np.log(np.abs(change))
    slope = [np.log(size), *(side.astype(float) for side in sides)]
    orders = [[side * size**k for side in sides] for k in (1, 2, 3)]
    x, longer = (np.stack([*slope, *(column for order in orders[:k] for column in order)], 1) for k in (2, 3))
    dof = len(y) - x.shape[1]
    if dof < 2:
        return None
    solution, _, rank, _ = np.linalg.lstsq(x / scale[:, None], y / scale, rcond=1e-13)
    left = y - x @ solution
    correction = np.abs((x[:, len(slope) :] @ solution[len(slope) :])[size == size.max()]).max()
    misfit = math.sqrt(float((left**2).mean()))
    if rank < x.shape[1] or correction > CORRECTION or misfit > MISFIT + 1.5 * math.sqrt(float((noise**2).mean())):
        return None
    # As noisy as the errors say, or as the residuals show.
    spread = max(1.0, float((left / scale) @ (left / scale)) / dof)
    variance = spread * np.linalg.inv((x / scale[:, None]).T @ (x / scale[:, None]))[0, 0]
    neglected = np.linalg.lstsq(longer / scale[:, None], y / scale, rcond=1e-13)[0][0] - solution[0]
    order = abs(float(neglected)) if len(y) > longer.shape[1] else 0.0
    power = Estimate.with_interval(float(solution[0]), math.sqrt(float(variance)), dof)
    power = Estimate(power.value, power.stderr, power.low - order, power.high + order)
    sign = float(np.sign(change[sides[0]][0]))
    return Exponent(power, sign * math.exp(solution[1]), float(size.min()), float(size.max()), len(y))
