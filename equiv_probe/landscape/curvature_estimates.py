"""What is known of the curvature of one loss, from one or more sets of rotations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.estimation.estimates import Estimate
from equiv_probe.landscape.conditioning import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from equiv_probe.estimation.estimates import Scale
    from equiv_probe.landscape.eigenvalue_density import EigenvalueDensity


@dataclass(frozen=True)
class LossCurvature:
    """The curvature matrix of one loss.

    Every number is an :class:`equiv_probe.estimation.estimates.Estimate`. Its standard error is over random probes
    and, where there are several sets of rotations, over those too; the interval is Student t, on the log scale for
    what is positive.

    Attributes:
        densities: what was found with each set of rotations, S of them.
        bracket: the largest eigenvalue lies between these two, in expectation: with one set of rotations the largest
            eigenvalue errs outwards (noise makes it larger), and the Rayleigh quotient of its vector under another set
            errs inwards. NaN for one set.
    """

    densities: tuple[EigenvalueDensity, ...]
    bracket: tuple[float, float] = (math.nan, math.nan)

    @property
    def size(self) -> int:
        """How many parameters."""
        return self.densities[0].size

    @property
    def sets(self) -> int:
        """How many sets of rotations it is from."""
        return len(self.densities)

    @property
    def largest(self) -> Estimate:
        """The largest eigenvalue; its error holds what the eigenvalue solver left."""
        return self._combined(lambda d: (d.largest, float(d.residuals[-1])))

    @property
    def smallest(self) -> Estimate:
        """The smallest eigenvalue, negative where the loss bends down; likewise."""
        return self._combined(lambda d: (d.smallest, float(d.residuals[0])))

    @property
    def trace(self) -> Estimate:
        """The trace: the sum of all eigenvalues."""
        return self._combined(lambda d: d.trace)

    @property
    def norm_squared(self) -> Estimate:
        """The squared Frobenius norm: the sum of the squares of all eigenvalues."""
        return self._combined(lambda d: d.norm_squared, "log")

    @property
    def rank(self) -> Estimate:
        """The effective rank ``(tr H)² / ‖H‖_F²``; of an indefinite matrix it may be anything, even below one."""
        return self._combined(lambda d: d.rank, "log")

    @property
    def entropy_rank(self) -> Estimate:
        """The exponential of the entropy of ``|λ| / Σ|λ|``; a rank in Roy and Vetterli's sense where all λ ≥ 0."""
        return self._combined(lambda d: d.entropy_rank, "log", len(self.densities[0].probes))

    def condition(self, kind: str = "mass-0.99") -> Estimate:
        """A condition number, of a kind that :mod:`equiv_probe.landscape.conditioning` defines."""
        return self._combined(lambda d: d.condition(kind), "log", len(self.densities[0].probes))

    @cached_property
    def density(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nodes in rising order and the fraction of directions at each, over all sets of rotations."""
        nodes = np.concatenate([d.nodes for d in self.densities])
        weights = np.concatenate([d.weights for d in self.densities]) / len(self.densities)
        order = np.argsort(nodes, kind="stable")
        return nodes[order], weights[order]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        names = ("largest", "smallest", "trace", "norm_squared", "rank", "entropy_rank")
        nodes, weights = self.density
        return {
            "parameters": self.size,
            **{name: vars(getattr(self, name)) for name in names},
            "largest_bracket": list(self.bracket),
            "condition": {kind: vars(self.condition(kind)) for kind in KINDS},
            "eigenvalues": [d.outliers.tolist() for d in self.densities],
            "density": {"nodes": nodes.tolist(), "weights": weights.tolist()},
        }

    def _combined(
        self,
        number: Callable[[EigenvalueDensity], tuple[float, float]],
        scale: Scale = "linear",
        probes: int | None = None,
    ) -> Estimate:
        """Over sets of rotations; what the density tells comes from fewer probes than what the trace does."""
        found = [number(density) for density in self.densities]
        return combined(found, len(self.densities[0].quadratic) if probes is None else probes, scale)


def combined(found: list[tuple[float, float]], probes: int, scale: Scale) -> Estimate:
    """One estimate of a number found with S sets of rotations and the same P probes.

    Args:
        found: value and standard error over probes, of each set.
        probes: P.
        scale: of the interval.
    """
    values, errors = np.array([v for v, _ in found]), np.array([e for _, e in found])
    if not np.isfinite(values).all():
        return Estimate(float(values.max()))
    value, within = float(values.mean()), float(np.mean(errors)) ** 2
    between = float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    # Welch and Satterthwaite's degrees of freedom of a sum of variances.
    scatter = (within**2 / (probes - 1) if probes > 1 else 0.0) + (between**2 / (len(values) - 1) if between else 0.0)
    dof = (within + between) ** 2 / scatter if scatter > 0 else math.inf
    return Estimate.with_interval(value, math.sqrt(within + between), dof, scale)
