"""What is known of the curvature of one loss, from one or more sets of rotations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from msgspec import field

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.estimates import Estimate
from equiv_probe.landscape.conditioning import KINDS, POSITIVE
from equiv_probe.report.record import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from equiv_probe.estimation.estimates import Scale
    from equiv_probe.landscape.eigenvalue_density import EigenvalueDensity


class Density(Part, frozen=True):
    """A density of eigenvalues as weighted points.

    Attributes:
        nodes: eigenvalues, and nodes of quadratures, in rising order.
        weights: the fraction of directions at each.
    """

    nodes: list[float]
    weights: list[float]

    def __post_init__(self) -> None:
        """Refuse what is no density."""
        finite = all(map(math.isfinite, (*self.nodes, *self.weights)))
        if not (finite and 0 < len(self.nodes) == len(self.weights) and min(self.weights) >= 0 < sum(self.weights)):
            raise ValueError(f"{len(self.nodes)} nodes and {len(self.weights)} weights that are no density")


class WholeSpectrum(Part, frozen=True):
    """What is known besides where all eigenvalues are.

    Attributes:
        smallest_positive: the smallest eigenvalue above the floor.
        floor: eigenvalues of smaller magnitude are zero as far as rounding lets one know.
        null: how many there are of these, in the mean over sets of rotations.
    """

    smallest_positive: Estimate
    floor: float
    null: float


class LossCurvature(Part, frozen=True, dict=True, omit_defaults=True):
    """The curvature matrix of one loss.

    Standard errors of the estimates are over random probes and, where there are several sets of rotations, over those
    too; intervals are Student t, on the log scale for what is positive.

    Attributes:
        size: how many parameters.
        largest: the largest eigenvalue; its error holds what the eigenvalue solver left.
        smallest: the smallest eigenvalue, negative where the loss bends down; likewise.
        trace: the sum of all eigenvalues.
        norm_squared: the squared Frobenius norm: the sum of the squares of all eigenvalues.
        rank: the effective rank ``(tr H)² / ‖H‖_F²``; of an indefinite matrix it may be anything, even below one.
        entropy_rank: the exponential of the entropy of ``|λ| / Σ|λ|``; a rank in Roy and Vetterli's sense where all
            λ ≥ 0.
        bracket: the largest eigenvalue lies between these two, in expectation: with one set of rotations the largest
            eigenvalue errs outwards (noise makes it larger), and the Rayleigh quotient of its vector under another set
            errs inwards. NaN for one set.
        conditions: the condition numbers of :data:`equiv_probe.landscape.conditioning.KINDS`; and ``"positive"``, λmax
            over the smallest positive eigenvalue, where all eigenvalues are known.
        eigenvalues: of largest magnitude, from each set of rotations, in rising order.
        spectrum: the density over all sets of rotations.
        whole: what is known besides where all eigenvalues are.
    """

    size: int = field(name="parameters")
    largest: Estimate
    smallest: Estimate
    trace: Estimate
    norm_squared: Estimate
    rank: Estimate
    entropy_rank: Estimate
    bracket: tuple[float, float] = field(name="largest_bracket")
    conditions: dict[str, Estimate] = field(name="condition")
    eigenvalues: list[list[float]]
    spectrum: Density = field(name="density")
    whole: WholeSpectrum | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be shown."""
        if self.size < 1:
            raise ValueError(f"{self.size} parameters")
        require_kinds(self.conditions, "condition")

    @classmethod
    def of(
        cls, densities: Sequence[EigenvalueDensity], bracket: tuple[float, float] = (math.nan, math.nan)
    ) -> LossCurvature:
        """What follows from the spectra found with S sets of rotations and the same probes; kept, but not stored."""

        def over_sets(number: Callable[[EigenvalueDensity], tuple[float, float]], scale: Scale = "linear") -> Estimate:
            return combined([number(one) for one in densities], len(densities[0].quadratic), scale)

        nodes = np.concatenate([one.nodes for one in densities])
        weights = np.concatenate([one.weights for one in densities]) / len(densities)
        order = np.argsort(nodes, kind="stable")
        whole = None
        if all(math.isfinite(one.floor) for one in densities):
            whole = WholeSpectrum(
                smallest_positive=over_sets(lambda d: d.smallest_positive),
                floor=max(one.floor for one in densities),
                null=float(np.mean([one.null for one in densities])),
            )
        found = cls(
            size=densities[0].size,
            largest=over_sets(lambda d: (float(d.outliers[-1]), float(d.residuals[-1]))),
            smallest=over_sets(lambda d: (float(d.outliers[0]), float(d.residuals[0]))),
            trace=over_sets(lambda d: d.trace),
            norm_squared=over_sets(lambda d: d.norm_squared, "log"),
            rank=over_sets(lambda d: d.rank, "log"),
            entropy_rank=_of_spectra(densities, lambda d: d.entropy_rank),
            bracket=bracket,
            conditions={kind: _condition(densities, kind) for kind in (*KINDS, *([POSITIVE] if whole else []))},
            eigenvalues=[one.outliers.tolist() for one in densities],
            spectrum=Density(nodes[order].tolist(), weights[order].tolist()),
            whole=whole,
        )
        found.__dict__["_densities"] = tuple(densities)
        return found

    @property
    def smallest_positive(self) -> Estimate:
        """The smallest eigenvalue that is more than rounding; NaN where only some eigenvalues are known."""
        return Estimate(math.nan) if self.whole is None else self.whole.smallest_positive

    @property
    def sets(self) -> int:
        """How many sets of rotations it is from."""
        return len(self.eigenvalues)

    @property
    def density(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nodes in rising order and the fraction of directions at each, over all sets of rotations."""
        return np.array(self.spectrum.nodes), np.array(self.spectrum.weights)

    @property
    def densities(self) -> tuple[EigenvalueDensity, ...]:
        """What was found with each set of rotations.

        Raises:
            EquivProbeError: it was read from a file, which does not hold them.
        """
        if "_densities" not in self.__dict__:
            raise EquivProbeError("a curvature from a file", "one just computed", "equiv_probe.curvature(...)")
        found: tuple[EigenvalueDensity, ...] = self.__dict__["_densities"]
        return found

    def condition(self, kind: str = "mass-0.99") -> Estimate:
        """A condition number, of a kind that :mod:`equiv_probe.landscape.conditioning` defines.

        Raises:
            EquivProbeError: there is no such kind, or it is neither stored nor to be computed from a file.
        """
        return self.conditions[kind] if kind in self.conditions else _condition(self.densities, kind)


def require_kinds(found: Mapping[str, Estimate], what: str) -> None:
    """Refuse other definitions than those of :mod:`equiv_probe.landscape.conditioning`.

    Raises:
        ValueError: there are others, or one of those that are always reported is missing.
    """
    if found.keys() - {POSITIVE} != set(KINDS):
        raise ValueError(f"{what} under {len(found)} definitions that are not {', '.join(KINDS)}")


def condition_ratio(mean: LossCurvature, equiv: LossCurvature, kind: str) -> Estimate:
    """How many times worse ``L_mean`` is conditioned than ``L_equiv``.

    Errors over probes are taken as independent, those over sets of rotations as they come, pair by pair.

    """
    logs = []
    for m, e in zip(mean.densities, equiv.densities, strict=True):
        (a, da), (b, db) = m.condition(kind), e.condition(kind)
        value = math.log(a / b) if 0 < a < math.inf and 0 < b < math.inf else math.nan
        logs.append((value, math.hypot(da / a, db / b) if math.isfinite(value) else math.nan))
    log = combined(logs, len(mean.densities[0].probes), "linear")
    value = math.exp(log.value)
    return Estimate(value, value * log.stderr, *(_exp(end) for end in (log.low, log.high)))


def combined(found: list[tuple[float, float]], probes: int, scale: Scale) -> Estimate:
    """One estimate of a number, from its values and standard errors over P probes in each of S sets of rotations."""
    values, errors = np.array([v for v, _ in found]), np.array([e for _, e in found])
    if not np.isfinite(values).all():
        return Estimate(float(values.max()))
    value, within = float(values.mean()), float(np.mean(errors)) ** 2
    between = float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    # Welch and Satterthwaite's degrees of freedom of a sum of variances.
    scatter = (within**2 / (probes - 1) if probes > 1 else 0.0) + (between**2 / (len(values) - 1) if between else 0.0)
    dof = (within + between) ** 2 / scatter if scatter > 0 else math.inf
    return Estimate.with_interval(value, math.sqrt(within + between), dof, scale)


def _condition(densities: Sequence[EigenvalueDensity], kind: str) -> Estimate:
    return _of_spectra(densities, lambda d: d.condition(kind))


def _of_spectra(
    densities: Sequence[EigenvalueDensity], number: Callable[[EigenvalueDensity], tuple[float, float]]
) -> Estimate:
    """A number of the density: it comes from fewer probes than the trace does."""
    return combined([number(one) for one in densities], len(densities[0].probes), "log")


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0)) if math.isfinite(value) else value
