r"""Condition numbers and ranks of a matrix whose spectrum is known as weighted eigenvalues.

The Hessian of a network is singular and indefinite: λmax/λmin means nothing there. Every number below is 1 for a matrix
whose eigenvalues are alike, and none changes when the loss is scaled. With eigenvalues λ and their weights w (the
fraction of directions that has them):
Shen et al. (arXiv:2512.02303) report that of ``L_equiv`` to be about 1000 times lower than that of ``L_mean`` for force
fields: λmax over the smallest positive eigenvalue, of some of the weights. A comparison should state which, or all.

* ``mass``, κ(q): ``|λ|max`` over the smallest ``|λ|`` that is needed so that the eigenvalues at least as large hold the
  fraction q of ``Σ w |λ|``. Directions of no curvature hold nothing, so they do not count; κ(1) of a positive definite
  matrix is λmax/λmin.
* ``cutoff``, κ(c): ``|λ|max`` over the smallest ``|λ|`` above ``c |λ|max``. λmax/λmin where that is below 1/c; where
  the spectrum goes down to zero without a gap it is 1/c whatever the matrix, and says only that.
* ``weighted``: ``|λ|max Σ w |λ| / Σ w λ²``, over the mean of ``|λ|`` where directions count by their curvature. Moments
  alone: the most stable, blind to directions of no curvature.
* ``mean``: ``|λ|max / Σ w |λ|``, over the mean of all directions, those without curvature among them.
* ``positive``: λmax over the smallest positive eigenvalue, as Shen et al. have it. That takes all eigenvalues, and to
  know which of them are zero but for rounding; see :func:`equiv_probe.landscape.eigenvalues.dense`.
* ``median``: ``|λ|max`` over the median ``|λ|`` of all directions; infinite where half of them have no curvature.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

NULL = 1e-12
"""Eigenvalues below this part of the largest magnitude are rounding of zero."""
KINDS = ("mass-0.99", "mass-0.9", "weighted", "mean", "median", "cutoff-1e-4")
"""What is always reported; any fraction or cut-off may be asked for."""
POSITIVE = "positive"
"""What is reported besides where all eigenvalues are known."""


def condition(kind: str, values: Values, weights: Values) -> float:
    """One of the condition numbers of weighted eigenvalues.

    Args:
        kind: ``"mass-q"``, ``"cutoff-c"``, ``"weighted"``, ``"mean"`` or ``"median"``; see above.
        values: eigenvalues, ``(m,)``.
        weights: of each, ``(m,)``, at least zero.

    Returns:
        At least 1; infinite where it divides by zero; NaN for a matrix of zeros.

    Raises:
        EquivProbeError: another kind.

    >>> condition("mass-1", np.array([4.0, 1.0, 2.0]), np.ones(3))
    4.0
    >>> condition("weighted", np.array([4.0, 4.0, 0.0]), np.ones(3))
    1.0
    """
    size = np.abs(values)
    largest = float(size.max())
    if largest == 0:
        return math.nan
    divisor = _divisor(kind, np.where(size < NULL * largest, 0.0, size), weights / weights.sum(), largest)
    return largest / divisor if divisor > 0 else math.inf


def _divisor(kind: str, size: Values, weights: Values, largest: float) -> float:
    name, _, text = kind.partition("-")
    number = float(text) if re.fullmatch(r"\d*\.?\d+([eE][+-]?\d+)?", text) else math.nan
    order = np.argsort(size)
    if name == "mass" and 0 < number <= 1:
        falling = order[::-1]
        mass = np.cumsum((weights * size)[falling])
        # Rounding must not ask for more than there is.
        return float(size[falling][np.searchsorted(mass, number * mass[-1] * (1 - 1e-12))])
    if name == "cutoff" and 0 < number <= 1:
        return float(size[(size >= number * largest) & (weights > 0)].min())
    if kind == "weighted":
        return float(weights @ size**2 / (weights @ size))
    if kind == "mean":
        return float(weights @ size)
    if kind == "median":
        place = int(np.searchsorted(np.cumsum(weights[order]), 0.5))
        return float(size[order][min(place, len(order) - 1)])
    raise EquivProbeError(f"condition number {kind!r}", f"one of {', '.join(KINDS)}, or other numbers in (0, 1]")


def entropy_rank(values: Values, weights: Values) -> float:
    """The exponential of the entropy of ``p = |λ| / Σ|λ|``: how many directions share the curvature, 1 to n.

    For positive semidefinite matrices it is the effective rank of Roy & Vetterli (EUSIPCO 2007); elsewhere it is that
    of ``|H|``.
    """
    size = np.abs(values)
    total = float(weights @ size)
    if total == 0:
        return math.nan
    p = size / total
    return math.exp(-float(weights @ np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0)))
