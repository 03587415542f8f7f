"""What is known of the curvature of the three losses: numbers with error bars, to print, to plot and to save."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.estimates import Estimate
from equiv_probe.landscape.conditioning import KINDS
from equiv_probe.landscape.curvature_estimates import combined
from equiv_probe.landscape.curvature_table import printed, table
from equiv_probe.landscape.saved_curvature import SavedCurvature
from equiv_probe.report.saving import as_json, as_page, write
from equiv_probe.report.stored import without_nan
from equiv_probe.report.stored_landscape import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from rich.table import Table

    from equiv_probe.landscape.curvature_estimates import LossCurvature


@dataclass(frozen=True)
class Curvature:
    """Curvature of ``L_total``, ``L_mean`` and ``L_equiv``; None for what was not asked for.

    Attributes:
        matrix: ``"hessian"`` or ``"gauss-newton"``.
        products: how many products with vectors it took, in all.
        seconds: and how long.
        notes: what to know before the numbers are believed.
        name: of what it is the curvature; may be empty.
        protocol: how it was measured.
    """

    total: LossCurvature | None
    mean: LossCurvature | None
    equiv: LossCurvature | None
    matrix: str
    products: int
    seconds: float
    notes: tuple[str, ...] = ()
    name: str = ""
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def ratio(self, kind: str = "mass-0.99") -> Estimate:
        """How many times worse ``L_mean`` is conditioned than ``L_equiv``: κ(L_mean) / κ(L_equiv).

        Shen et al. (arXiv:2512.02303) report about 1000 for force fields. The errors over probes are taken as
        independent, those over sets of rotations as they come, pair by pair.

        Raises:
            EquivProbeError: one of the two was not measured.
        """
        if self.mean is None or self.equiv is None:
            raise EquivProbeError("a curvature without both losses", "L_mean and L_equiv", 'losses=("mean", "equiv")')
        logs = []
        for m, e in zip(self.mean.densities, self.equiv.densities, strict=True):
            (a, da), (b, db) = m.condition(kind), e.condition(kind)
            value = math.log(a / b) if 0 < a < math.inf and 0 < b < math.inf else math.nan
            logs.append((value, math.hypot(da / a, db / b) if math.isfinite(value) else math.nan))
        log = combined(logs, len(self.mean.densities[0].probes), "linear")
        value = math.exp(log.value)
        return Estimate(value, value * log.stderr, *(_exp(end) for end in (log.low, log.high)))

    def named(self) -> Iterator[tuple[str, LossCurvature]]:
        """The losses that were measured, as ``("L_mean", …)``."""
        for name in ("total", "mean", "equiv"):
            found = getattr(self, name)
            if found is not None:
                yield f"L_{name}", found

    def table(self) -> Table:
        """A Rich table: a row for every number, a column for every loss."""
        return table(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; the condition numbers' ratio under every definition."""
        both = self.mean is not None and self.equiv is not None
        return {
            "schema_version": VERSION,
            "name": self.name,
            "matrix": self.matrix,
            "products": self.products,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "protocol": dict(self.protocol),
            **{name.removeprefix("L_"): one.to_dict() for name, one in self.named()},
            "condition_ratio": {kind: vars(self.ratio(kind)) for kind in KINDS} if both else {},
        }

    def to_csv(self) -> str:
        """The densities: loss, eigenvalue, fraction of directions."""
        out = StringIO()
        writer = csv.writer(out)
        writer.writerow(["loss", "eigenvalue", "fraction of directions"])
        for name, one in self.named():
            writer.writerows([name, float(x), float(w)] for x, w in zip(*one.density, strict=True))
        return out.getvalue()

    def saved(self) -> SavedCurvature:
        """Its numbers alone, as they are read back from a file."""
        return SavedCurvature(without_nan(self.to_dict()))

    def save(self, path: str | Path) -> None:
        """Write ``.json`` (everything), ``.csv`` (the densities) or ``.html`` (a page to look at).

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

    def plot(self, ax: Axes | None = None) -> Axes:
        """The densities, see :func:`equiv_probe.landscape.plots.density`."""
        from equiv_probe.landscape.plots import density

        return density(self, ax)

    def __str__(self) -> str:
        return printed(table(self), self.notes)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0)) if math.isfinite(value) else value
