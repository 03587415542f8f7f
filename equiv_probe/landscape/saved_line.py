"""Losses along a line as they were saved: their values, without those of single structures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.curvature_table import printed
from equiv_probe.landscape.growth_exponent import Exponent
from equiv_probe.landscape.line_table import table
from equiv_probe.landscape.saved_curvature import estimate
from equiv_probe.landscape.saved_record import SavedRecord
from equiv_probe.report.stored import finite
from equiv_probe.report.stored_landscape import NAMES, require_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SavedLine(SavedRecord):
    """Losses along a line, with the names of :class:`equiv_probe.analysis.Line`.

    Attributes:
        stored: what :meth:`equiv_probe.analysis.Line.to_dict` gave.
    """

    require = staticmethod(require_line)

    @property
    def direction(self) -> str:
        """Which."""
        return str(self.stored["direction"])

    @property
    def over(self) -> str:
        """What standard errors are over."""
        return str(self.stored["over"])

    @property
    def sets(self) -> int:
        """How many sets of rotations."""
        return int(self.stored["sets"])

    @property
    def length(self) -> float:
        """``‖d‖ / ‖θ‖``."""
        return float(self.stored["length"] or math.nan)

    @property
    def t(self) -> NDArray[np.float64]:
        """Where, rising, 0 among them."""
        return np.array(self.stored["t"], dtype=float)

    @property
    def origin(self) -> int:
        """The place of t = 0."""
        return int(self.stored["t"].index(0))

    def named(self) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
        """Name, values and standard errors of the three losses."""
        for name in (f"L_{name}" for name in NAMES):
            yield name, np.array(self.stored[name], dtype=float), np.array(self.stored[f"{name}_stderr"], dtype=float)

    def exponent(self, loss: str = "equiv") -> Exponent:
        """The power of ``|t|`` with which a loss grows.

        Raises:
            EquivProbeError: another loss.
        """
        if loss not in NAMES:
            raise EquivProbeError(f"loss={loss!r}", ", ".join(NAMES))
        found = self.stored["exponents"][loss]
        rest = {name: finite(found[name]) for name in ("coefficient", "low", "high")}
        return Exponent(estimate(found["power"]), points=int(found["points"]), why=found["why"], **rest)

    def plot(self, ax: Axes | None = None, *, growth: bool = False) -> Axes:
        """The profile, or with ``growth`` the change on logarithmic axes; see :mod:`equiv_probe.landscape.plots`."""
        from equiv_probe.landscape import plots as curvature_plots

        return curvature_plots.growth(self, ax) if growth else curvature_plots.profile(self, ax)

    def __str__(self) -> str:
        return printed(table(self), ())
