"""A curvature as it was saved: its numbers, without what they were computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.estimates import Estimate
from equiv_probe.landscape.curvature_table import printed, table
from equiv_probe.landscape.saved_record import SavedRecord
from equiv_probe.report.stored_landscape import NAMES, require_curvature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SavedLossCurvature:
    """The curvature of one loss, with the names of :class:`equiv_probe.landscape.curvature_estimates.LossCurvature`."""

    stored: dict[str, Any]

    @property
    def size(self) -> int:
        """How many parameters."""
        return int(self.stored["parameters"])

    @property
    def sets(self) -> int:
        """How many sets of rotations it is from."""
        return len(self.stored["eigenvalues"])

    @property
    def bracket(self) -> tuple[float, float]:
        """The largest eigenvalue lies between these two, in expectation."""
        low, high = (math.nan if end is None else float(end) for end in self.stored["largest_bracket"])
        return low, high

    @property
    def density(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nodes in rising order and the fraction of directions at each."""
        nodes, weights = (np.array(self.stored["density"][name], dtype=float) for name in ("nodes", "weights"))
        return nodes, weights

    @property
    def largest(self) -> Estimate:
        """The largest eigenvalue."""
        return estimate(self.stored["largest"])

    @property
    def smallest(self) -> Estimate:
        """The smallest eigenvalue."""
        return estimate(self.stored["smallest"])

    @property
    def trace(self) -> Estimate:
        """The sum of all eigenvalues."""
        return estimate(self.stored["trace"])

    @property
    def rank(self) -> Estimate:
        """The effective rank ``(tr H)² / ‖H‖_F²``."""
        return estimate(self.stored["rank"])

    @property
    def entropy_rank(self) -> Estimate:
        """The effective rank from the entropy of the eigenvalues."""
        return estimate(self.stored["entropy_rank"])

    def condition(self, kind: str = "mass-0.99") -> Estimate:
        """A condition number; NaN where it is infinite.

        Raises:
            EquivProbeError: it was not saved.
        """
        return _of(self.stored["condition"], kind)


@dataclass(frozen=True)
class SavedCurvature(SavedRecord):
    """Curvatures of the three losses, with the names of :class:`equiv_probe.analysis.Curvature`.

    Attributes:
        stored: what :meth:`equiv_probe.analysis.Curvature.to_dict` gave.
    """

    require = staticmethod(require_curvature)

    @property
    def matrix(self) -> str:
        """``"hessian"`` or ``"gauss-newton"``."""
        return str(self.stored["matrix"])

    @property
    def products(self) -> int:
        """How many products with vectors it took."""
        return int(self.stored["products"])

    @property
    def seconds(self) -> float:
        """And how long."""
        return float(self.stored["seconds"] or math.nan)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before the numbers are believed."""
        return tuple(self.stored["notes"])

    @property
    def total(self) -> SavedLossCurvature | None:
        """Of ``L_total``."""
        return self._loss("total")

    @property
    def mean(self) -> SavedLossCurvature | None:
        """Of ``L_mean``."""
        return self._loss("mean")

    @property
    def equiv(self) -> SavedLossCurvature | None:
        """Of ``L_equiv``."""
        return self._loss("equiv")

    def ratio(self, kind: str = "mass-0.99") -> Estimate:
        """κ(L_mean) / κ(L_equiv).

        Raises:
            EquivProbeError: it was not measured.
        """
        return _of(self.stored["condition_ratio"], kind)

    def named(self) -> Iterator[tuple[str, SavedLossCurvature]]:
        """The losses that were measured, as ``("L_mean", …)``."""
        for name in NAMES:
            found = self._loss(name)
            if found is not None:
                yield f"L_{name}", found

    def plot(self, ax: Axes | None = None) -> Axes:
        """The densities, see :func:`equiv_probe.landscape.plots.density`."""
        from equiv_probe.landscape.plots import density

        return density(self, ax)

    def __str__(self) -> str:
        return printed(table(self), self.notes)

    def _loss(self, name: str) -> SavedLossCurvature | None:
        return SavedLossCurvature(self.stored[name]) if name in self.stored else None


def estimate(stored: dict[str, Any]) -> Estimate:
    """An estimate as JSON has it: null is NaN."""
    names = ("value", "stderr", "low", "high")
    return Estimate(*(math.nan if stored[name] is None else float(stored[name]) for name in names))


def _of(stored: dict[str, Any], kind: str) -> Estimate:
    if kind not in stored:
        raise EquivProbeError(f"a saved curvature without {kind!r}", ", ".join(stored) or "both L_mean and L_equiv")
    return estimate(stored[kind])
