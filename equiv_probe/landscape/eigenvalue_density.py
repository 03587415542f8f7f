r"""The spectrum of a symmetric matrix from a few eigenpairs and random probes of the rest, with error bars over probes.

The eigenpairs of largest magnitude are taken out (exactly, whatever their accuracy: U is orthonormal and P = 1 − UUᵀ):

    tr H    = Σ uᵀHu   + (n−k) E vᵀHv,
    ‖H‖_F²  = Σ ‖Hu‖²  + (n−k) E ‖Hv‖²,      v uniform on the unit sphere of what is orthogonal to U.

What is left has no outliers, so few probes do (the idea of Hutch++: Meyer, Musco, Musco & Woodruff, SOSA 2021). The
density is that of the eigenvalues taken out, and of Lanczos quadratures started from v.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.landscape.conditioning import POSITIVE, condition, entropy_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from equiv_probe.landscape.lanczos import Quadrature


@dataclass(frozen=True)
class EigenvalueDensity:
    """What was found of a spectrum of n eigenvalues.

    Attributes:
        size: n.
        outliers: eigenvalues taken out, in rising order, the smallest and the largest of all among them.
        residuals: an eigenvalue lies within this of each.
        square: ``Σ ‖Hu‖²`` of their vectors.
        probes: quadratures of the rest; empty where all eigenvalues are known.
        quadratic: ``vᵀHv`` of every probe, also of those that made one product only, ``(P,)``.
        squares: ``‖Hv‖²``, ``(P,)``.
        floor: eigenvalues below this magnitude cannot be distinguished from zero; NaN where only some are known.
    """

    size: int
    outliers: NDArray[np.float64]
    residuals: NDArray[np.float64]
    square: float
    probes: Sequence[Quadrature] = field(default=(), repr=False)
    quadratic: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False)
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False)
    floor: float = math.nan

    @cached_property
    def nodes(self) -> NDArray[np.float64]:
        """Eigenvalues, and nodes of the quadratures, ``(M,)``, rising."""
        return self._weighted(list(self.probes))[0]

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """The fraction of all directions at each node, ``(M,)``; they add to one."""
        return self._weighted(list(self.probes))[1] / self.size

    @property
    def smallest_positive(self) -> tuple[float, float]:
        """The smallest eigenvalue above the floor, and how far it may be off; NaN where only some are known."""
        above = self.outliers[self.outliers > self.floor]
        return (float(above[0]), self.floor) if len(above) else (math.nan, math.nan)

    @property
    def null(self) -> float:
        """How many eigenvalues cannot be distinguished from zero; NaN where only some are known."""
        return math.nan if math.isnan(self.floor) else float((np.abs(self.outliers) <= self.floor).sum())

    @property
    def trace(self) -> tuple[float, float]:
        """The trace and its standard error over probes."""
        return self._of_moments(lambda trace, _: trace)

    @property
    def norm_squared(self) -> tuple[float, float]:
        """The squared Frobenius norm, Σ λ², and its standard error over probes."""
        return self._of_moments(lambda _, square: square)

    @property
    def rank(self) -> tuple[float, float]:
        """The effective rank ``(tr H)² / ‖H‖_F²`` and its standard error: n for the identity, k for a projection."""
        return self._of_moments(lambda trace, square: trace**2 / square if square > 0 else math.nan)

    @property
    def entropy_rank(self) -> tuple[float, float]:
        """See :func:`equiv_probe.landscape.conditioning.entropy_rank`, with its standard error over probes.

        A quadrature of m nodes knows moments up to 2m − 1; p log p at small p is not one of them, so that with few
        steps it is a rough number.
        """
        return self._over_probes(entropy_rank)

    def condition(self, kind: str = "mass-0.99") -> tuple[float, float]:
        """A condition number, see :mod:`equiv_probe.landscape.conditioning`, and its standard error.

        Means have the jackknife's over probes. Of what is read off at one place of the spectrum (mass, cutoff, median)
        the jackknife knows little, and a few nodes stand for a continuum: there it is the scatter, on the log scale, of
        what single probes say, not divided by the root of their number.
        """
        if kind == POSITIVE:
            smallest, off = self.smallest_positive
            value = float(self.outliers[-1]) / smallest
            return value, value * off / smallest
        if kind in {"weighted", "mean"} or not self.probes:
            return self._over_probes(lambda values, weights: condition(kind, values, weights))
        single = np.log([condition(kind, *self._weighted([probe])) for probe in self.probes])
        value = condition(kind, self.nodes, self.weights)
        scatter = float(single.std(ddof=1)) if len(single) > 1 and np.isfinite(single).all() else math.nan
        return value, value * scatter

    def of(self, function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> tuple[float, float]:
        """``tr f(H) / n``, the mean of a function over eigenvalues, and its standard error over probes."""
        return self._over_probes(lambda values, weights: float(weights @ function(values) / weights.sum()))

    def _of_moments(self, number: Callable[[float, float], float]) -> tuple[float, float]:
        """Of the trace and the squared norm, with its standard error over probes."""
        left = self.size - len(self.outliers)

        def of(keep: NDArray[np.bool_]) -> float:
            rest = (left * float(one[keep].mean()) if left else 0.0 for one in (self.quadratic, self.squares))
            return number(float(self.outliers.sum()) + next(rest), self.square + next(rest))

        return _jackknifed(of, len(self.quadratic))

    def _over_probes(self, number: Callable[[NDArray[np.float64], NDArray[np.float64]], float]) -> tuple[float, float]:
        def of(keep: NDArray[np.bool_]) -> float:
            return number(*self._weighted(list(itertools.compress(self.probes, keep))))

        return _jackknifed(of, len(self.probes))

    def _weighted(self, probes: list[Quadrature]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nodes, and how many directions each stands for."""
        left = self.size - len(self.outliers)
        values = np.concatenate([self.outliers, *(probe.nodes for probe in probes)])
        counts = [np.ones(len(self.outliers)), *(left / len(probes) * probe.weights for probe in probes)]
        order = np.argsort(values, kind="stable")
        return values[order], np.concatenate(counts)[order]


def _jackknifed(number: Callable[[NDArray[np.bool_]], float], count: int) -> tuple[float, float]:
    """A number of all probes, and its jackknife standard error: zero without probes, NaN of one."""
    value = number(np.ones(count, dtype=bool))
    if count < 2:
        return value, math.nan if count else 0.0
    left_out = np.array([number(np.arange(count) != k) for k in range(count)])
    if not np.isfinite(left_out).all():
        return value, math.nan
    return value, math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
