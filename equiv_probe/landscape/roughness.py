"""How rough a loss is on a grid: what a smooth surface leaves over, and whether neighbours in that are alike.

On a grid that is small beside what the loss changes over, a smooth function is a quartic but for a small rest, and in
that rest neighbours are alike. Noise that is drawn anew at every point leaves a rest in which they are not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import numpy as np

from equiv_probe.report.record import Part

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

DEGREE = 4
"""Of the polynomial in two variables, fitted by least squares: 15 coefficients."""
SIGNIFICANT = 3.0
"""Standard errors above zero from which on neighbours are alike."""


class Roughness(Part, frozen=True):
    """What the best quartic in both coordinates leaves over of a loss on a grid.

    Attributes:
        rms: its root mean square, with the number of coefficients taken off the number of points.
        relative: to the mean magnitude of the loss.
        of_range: rms to the difference of the largest and the smallest value on the grid.
        lag1: correlation of neighbours along both axes: near 0 for noise, near 1 for what is smooth but no quartic.
        lag1_stderr: that of independent noise.
        floor: what rounding may leave over.
    """

    rms: float
    relative: float
    of_range: float
    lag1: float
    lag1_stderr: float
    floor: float = 0.0

    @classmethod
    def of(cls, surface: Values, floor: float = 0.0) -> Self:
        """From the values on a grid ``(n, m)``, each at least 5; NaN where the loss is not finite.

        >>> u = np.linspace(-1, 1, 20)
        >>> bowl = 1 + u[:, None] ** 2 + u * u[:, None] ** 3
        >>> noise = np.random.default_rng(0).standard_normal((20, 20))
        >>> smooth, rough = Roughness.of(bowl, 1e-12), Roughness.of(bowl + 0.01 * noise)
        >>> smooth.kind, rough.kind, round(rough.rms, 3)
        ('quartic', 'noise', 0.01)
        """
        if not np.isfinite(surface).all():
            return cls(math.nan, math.nan, math.nan, math.nan, math.nan, floor)
        rest = surface - _fitted(surface)
        size = float((rest**2).sum())
        rms = math.sqrt(size / (surface.size - (DEGREE + 1) * (DEGREE + 2) // 2))
        pairs = np.concatenate([(rest[1:] * rest[:-1]).ravel(), (rest[:, 1:] * rest[:, :-1]).ravel()])
        spread = float(np.ptp(surface))
        return cls(
            rms=rms,
            relative=rms / float(np.abs(surface).mean()) if surface.any() else math.nan,
            of_range=rms / spread if spread > 0 else math.nan,
            lag1=float(pairs.mean()) / (size / surface.size) if size > 0 else math.nan,
            lag1_stderr=1 / math.sqrt(len(pairs)),
            floor=floor,
        )

    @property
    def kind(self) -> str:
        """``"quartic"``: rounding is left; ``"smooth"``: neighbours are alike; ``"noise"``; or ``"unknown"``."""
        if math.isnan(self.rms):
            return "unknown"
        if self.rms <= self.floor:
            return "quartic"
        return "smooth" if self.lag1 > SIGNIFICANT * self.lag1_stderr else "noise"


def _fitted(surface: Values) -> Values:
    """The best polynomial, by products of Legendre polynomials: on ``[-1, 1]`` these are well conditioned."""
    one, other = (np.polynomial.legendre.legvander(np.linspace(-1, 1, n), DEGREE) for n in surface.shape)
    terms = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]
    basis = np.stack([np.outer(one[:, i], other[:, j]).ravel() for i, j in terms], 1)
    found, *_ = np.linalg.lstsq(basis, surface.ravel(), rcond=None)
    return np.asarray((basis @ found).reshape(surface.shape))
