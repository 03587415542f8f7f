"""The three losses along a line in parameter space: values, exponents, to print, to plot and to save."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.curvature_table import printed
from equiv_probe.landscape.growth_exponent import Exponent, growth_exponent
from equiv_probe.landscape.line_table import table
from equiv_probe.landscape.saved_line import SavedLine
from equiv_probe.report.saving import as_json, as_page, write
from equiv_probe.report.stored import without_nan
from equiv_probe.report.stored_landscape import NAMES, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from rich.table import Table


@dataclass(frozen=True)
class Line:
    """Losses at ``θ + t d``.

    Attributes:
        t: where, ``(T,)``, rising, 0 among them.
        rows: ``L_total``, ``L_mean``, ``L_equiv`` of every structure or set of rotations, ``(T, U, 3)``.
        floor: what a change of every weight in its last place makes of the three, ``(3,)``.
        direction: which.
        over: what standard errors are over: ``"structures"``, ``"rotations"``, or nothing.
        sets: of rotations; with structures too, these are the rows of all sets in turn.
        length: ``‖d‖ / ‖θ‖``.
        seed: of the random numbers.
        name: of whose weights; may be empty.
        protocol: how it was measured.
    """

    t: NDArray[np.float64]
    rows: NDArray[np.float64]
    floor: NDArray[np.float64]
    direction: str
    over: str
    sets: int
    length: float
    seed: int
    name: str = ""
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> NDArray[np.float64]:
        """``L_total``, ``(T,)``."""
        return self._values(0)

    @property
    def mean(self) -> NDArray[np.float64]:
        """``L_mean``, ``(T,)``."""
        return self._values(1)

    @property
    def equiv(self) -> NDArray[np.float64]:
        """``L_equiv``, ``(T,)``."""
        return self._values(2)

    @property
    def origin(self) -> int:
        """The place of t = 0."""
        return int(np.flatnonzero(self.t == 0)[0])

    def stderr(self, loss: str) -> NDArray[np.float64]:
        """Standard errors of one loss, ``(T,)``; NaN where there is nothing to estimate them from."""
        return _scatter(self._samples(loss))

    def change(self, loss: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``L(t) − L(0)`` and its standard errors, each ``(T,)``; of the same structures and rotations."""
        samples = self._samples(loss)
        differences = samples - samples[self.origin]
        return differences.mean(1), _scatter(differences)

    def exponent(self, loss: str = "equiv") -> Exponent:
        """The power p of ``L(t) − L(0) = b |t|^p`` at small t, of ``"total"``, ``"mean"`` or ``"equiv"``.

        Which t, and what the interval holds: :mod:`equiv_probe.landscape.growth_exponent`. It is of the structures and
        rotations at hand: what they share is no noise along the line.
        """
        away = self.t != 0
        change, _ = self.change(loss)
        return growth_exponent(self.t[away], change[away], float(self.floor[NAMES.index(loss)]))

    def named(self) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
        """Name, values and standard errors of the three losses."""
        for name in NAMES:
            yield f"L_{name}", self._values(NAMES.index(name)), self.stderr(name)

    def table(self) -> Table:
        """A Rich table: the losses at 0 and at the ends, and the powers."""
        return table(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {
            "schema_version": VERSION,
            "name": self.name,
            "direction": self.direction,
            "seed": self.seed,
            "over": self.over,
            "sets": self.sets,
            "length": self.length,
            "floor": self.floor.tolist(),
            "protocol": dict(self.protocol),
            "t": self.t.tolist(),
            **{name: values.tolist() for name, values, _ in self.named()},
            **{f"{name}_stderr": errors.tolist() for name, _, errors in self.named()},
            "exponents": {name: self.exponent(name).to_dict() for name in NAMES},
        }

    def to_csv(self) -> str:
        """A row for every t."""
        out = StringIO()
        writer = csv.writer(out)
        having = list(self.named())
        writer.writerow(["t", *(label for name, _, _ in having for label in (name, f"{name}_stderr"))])
        for k, t in enumerate(self.t):
            cells = [float(x[k]) for _, values, errors in having for x in (values, errors)]
            writer.writerow([float(t), *("" if math.isnan(cell) else cell for cell in cells)])
        return out.getvalue()

    def saved(self) -> SavedLine:
        """Its numbers alone, as they are read back from a file."""
        return SavedLine(without_nan(self.to_dict()))

    def save(self, path: str | Path) -> None:
        """Write ``.json`` (everything), ``.csv`` (a row for every t) or ``.html`` (a page to look at).

        Raises:
            EquivProbeError: another suffix, or, for a page, Matplotlib is not installed.
        """
        write(
            path,
            {".json": lambda: as_json(self.to_dict()), ".csv": self.to_csv, ".html": lambda: as_page(self.saved())},
        )

    def _repr_html_(self) -> str | None:
        """What a notebook shows; without Matplotlib it shows the text instead."""
        return self.saved()._repr_html_()

    def plot(self, ax: Axes | None = None, *, growth: bool = False) -> Axes:
        """The profile, or with ``growth`` the change on logarithmic axes; see :mod:`equiv_probe.landscape.plots`."""
        from equiv_probe.landscape import plots as curvature_plots

        return curvature_plots.growth(self, ax) if growth else curvature_plots.profile(self, ax)

    def __str__(self) -> str:
        return printed(table(self), ())

    def _values(self, which: int) -> NDArray[np.float64]:
        return np.asarray(self.rows[:, :, which].mean(1))

    def _samples(self, loss: str) -> NDArray[np.float64]:
        """Independent estimates, ``(T, n)``: of structures, or of sets of rotations."""
        if loss not in NAMES:
            raise EquivProbeError(f"loss={loss!r}", ", ".join(NAMES))
        rows = self.rows[:, :, NAMES.index(loss)]
        if self.over == "structures" and self.sets > 1:  # the same structures under several sets of rotations
            rows = rows.reshape(len(rows), self.sets, -1).mean(1)
        return np.asarray(rows)


def _scatter(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    count = samples.shape[1]
    if count < 2:
        return np.full(len(samples), math.nan)
    return np.asarray(samples.std(1, ddof=1) / math.sqrt(count))
