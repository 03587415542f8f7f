"""What is known of the curvature of the three losses: numbers with error bars, to print, to plot and to save."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from equiv_probe.conditioning import KINDS
from equiv_probe.curvature_estimates import combined
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimates import Estimate
from equiv_probe.report import without_nan
from equiv_probe.report_table import interval, number, table_of, with_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.axes import Axes
    from rich.table import Table

    from equiv_probe.curvature_estimates import LossCurvature


@dataclass(frozen=True)
class Curvature:
    """Curvature of ``L_total``, ``L_mean`` and ``L_equiv``; None for what was not asked for.

    Attributes:
        matrix: ``"hessian"`` or ``"gauss-newton"``.
        products: how many products with vectors it took, in all.
        seconds: and how long.
        notes: what to know before the numbers are believed.
    """

    total: LossCurvature | None
    mean: LossCurvature | None
    equiv: LossCurvature | None
    matrix: str
    products: int
    seconds: float
    notes: tuple[str, ...] = ()

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
        having = list(self.named())
        matrix = {"hessian": "Hessian", "gauss-newton": "Gauss–Newton matrix"}[self.matrix]
        table = table_of(f"Curvature: {matrix} in {having[0][1].size} parameters", "", *(n for n, _ in having))

        def row(label: str, cell: Callable[[LossCurvature], str], last: str = "") -> None:
            table.add_row(label, *(cell(one) for _, one in having), *([last] if both else []))

        both = self.mean is not None and self.equiv is not None
        if both:
            table.add_column("L_mean / L_equiv", justify="right", no_wrap=True)
        for label, name in (("largest eigenvalue", "largest"), ("smallest eigenvalue", "smallest"), ("trace", "trace")):
            row(label, lambda one, name=name: shown(getattr(one, name)))  # type: ignore[misc]
        if any(math.isfinite(one.bracket[0]) for _, one in having):
            row("largest lies within", lambda one: interval(*one.bracket))
        row("effective rank, tr² / ‖H‖²", lambda one: shown(one.rank))
        row("effective rank, entropy", lambda one: shown(one.entropy_rank))
        for kind in KINDS:
            row(
                f"condition number, {kind}",
                lambda one, kind=kind: shown(one.condition(kind)),  # type: ignore[misc]
                shown(self.ratio(kind)) if both else "",
            )
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; the condition numbers' ratio under every definition."""
        both = self.mean is not None and self.equiv is not None
        return {
            "matrix": self.matrix,
            "products": self.products,
            "seconds": self.seconds,
            "notes": list(self.notes),
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

    def save(self, path: str | Path) -> None:
        """Write ``.json`` (everything) or ``.csv`` (the densities).

        Raises:
            EquivProbeError: another suffix.
        """
        write(Path(path), {".json": lambda: as_json(self.to_dict()), ".csv": self.to_csv})

    def plot(self, ax: Axes | None = None) -> Axes:
        """The densities, see :func:`equiv_probe.curvature_plots.density`."""
        from equiv_probe.curvature_plots import density

        return density(self, ax)

    def __str__(self) -> str:
        return printed(self.table(), self.notes)


def shown(estimate: Estimate) -> str:
    """A value with its standard error, where it has one."""
    value = estimate.value
    if math.isinf(value):
        return "∞"
    return with_error(value, estimate.stderr) if estimate.stderr > 1e-12 * abs(value) else number(value)


def printed(table: Table, notes: tuple[str, ...]) -> str:
    """A table as plain text, with notes below it."""
    out = StringIO()
    Console(file=out, width=140, highlight=False, color_system=None).print(table)
    lines = [line.rstrip() for line in out.getvalue().rstrip().splitlines()]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def write(path: Path, forms: dict[str, Callable[[], str]]) -> None:
    """Write text in the form that the suffix names.

    Raises:
        EquivProbeError: another suffix.
    """
    if path.suffix not in forms:
        raise EquivProbeError(f"the suffix {path.suffix!r}", " or ".join(forms))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(forms[path.suffix](), encoding="utf-8")


def as_json(plain: dict[str, Any]) -> str:
    """JSON, in which NaN is null."""
    return json.dumps(without_nan(plain), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0)) if math.isfinite(value) else value
