"""Losses along a line as they were saved: their values, without those of single structures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.curvature_table import printed
from equiv_probe.errors import EquivProbeError
from equiv_probe.growth_exponent import Exponent
from equiv_probe.line_table import table
from equiv_probe.saved_curvature import estimate
from equiv_probe.saving import as_json, as_page, read, require_version, write
from equiv_probe.stored import finite
from equiv_probe.stored_landscape import NAMES, VERSION, require_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SavedLine:
    """Losses along a line, with the names of :class:`equiv_probe.Line`.

    Attributes:
        stored: what :meth:`equiv_probe.Line.to_dict` gave.
    """

    stored: dict[str, Any]

    @property
    def name(self) -> str:
        """Of whose weights; may be empty."""
        return str(self.stored.get("name", ""))

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
    def protocol(self) -> dict[str, Any]:
        """How it was measured."""
        return dict(self.stored.get("protocol", {}))

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
        """The profile, or with ``growth`` the change on logarithmic axes; see :mod:`equiv_probe.curvature_plots`."""
        from equiv_probe import curvature_plots

        return curvature_plots.growth(self, ax) if growth else curvature_plots.profile(self, ax)

    def to_dict(self) -> dict[str, Any]:
        """What was stored."""
        return self.stored

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> SavedLine:
        """Undo :meth:`to_dict`.

        Raises:
            EquivProbeError: another schema version, or no line.
        """
        require_version(stored, VERSION)
        require_line(stored)
        return cls(stored)

    def save(self, path: str | Path) -> None:
        """Write ``.json`` (everything) or ``.html`` (a page to look at).

        Raises:
            EquivProbeError: another suffix, or, for a page, Matplotlib is not installed.
        """
        write(path, {".json": lambda: as_json(self.stored), ".html": lambda: as_page(self)})

    @classmethod
    def load(cls, path: str | Path) -> SavedLine:
        """Read what was saved as JSON.

        Raises:
            EquivProbeError: there is no such file, or no line in it.
        """
        found: SavedLine = read(path, cls.from_dict)
        return found

    def _repr_html_(self) -> str | None:
        """What a notebook shows; without Matplotlib it shows the text instead."""
        from equiv_probe.page import fragment

        try:
            return fragment(self)
        except EquivProbeError:
            return None

    def __str__(self) -> str:
        return printed(table(self), ())
