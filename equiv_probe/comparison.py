"""Reports side by side, and which differences between them are more than chance (:mod:`equiv_probe.differences`)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text
from scipy.special import stdtrit

from equiv_probe.differences import NAN, Change, change, tested, welch
from equiv_probe.errors import EquivProbeError
from equiv_probe.report import without_nan
from equiv_probe.report_table import interval, number, table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equiv_probe.report import Measured, Report

SAME = ("round-off", "non-deterministic")
"""Verdicts beneath which a difference means nothing."""


@dataclass(frozen=True)
class Entry:
    """One report's value in a contrast, with its 95 % interval."""

    report: str
    value: float
    low: float
    high: float
    verdict: str = ""
    change: Change = field(default_factory=Change)


@dataclass(frozen=True)
class Contrast:
    """One number of one quantity over all reports that have it.

    Attributes:
        quantity: its name.
        number: ``"√L_equiv"``, ``"share"``, ``"L_total"`` or ``"L_mean"``.
        unit: of the values.
        ratio: whether changes are ratios; otherwise they are differences, in ``unit``.
        entries: in the order of the reports, the first is what the others are held against.
    """

    quantity: str
    number: str
    unit: str
    ratio: bool
    entries: list[Entry]


@dataclass(frozen=True)
class Comparison:
    """Reports side by side; the first is what the others are held against."""

    names: list[str]
    contrasts: list[Contrast]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; what could not be compared is None."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain

    def save(self, path: str | Path) -> None:
        """Write ``.json`` or ``.html``.

        Raises:
            EquivProbeError: another suffix.
        """
        path = Path(path)
        if path.suffix == ".json":
            text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        elif path.suffix == ".html":
            from equiv_probe.page import comparison_page

            text = comparison_page(self)
        else:
            raise EquivProbeError(f"the suffix {path.suffix!r}", ".json or .html", 'comparison.save("comparison.html")')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def __rich_console__(self, console: Console, options: Any) -> Any:
        """One table per number."""
        for contrast in self.contrasts:
            yield from _table(contrast)
        yield Text(NOT_CORRECTED)

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=120, highlight=False, color_system=None)
        console.print(self)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())


NOT_CORRECTED = (
    "Changes are against the first, with 95 % intervals; p: how likely chance alone makes as large a difference, not "
    "corrected for how many are compared."
)


def compare(reports: Sequence[Report], names: Sequence[str] | None = None) -> Comparison:
    """Put every number of every quantity side by side that at least two of the reports have.

    Args:
        reports: the first is what the others are held against.
        names: of the reports; None takes their models, numbered where two are the same.

    Raises:
        EquivProbeError: fewer than two reports, or they have no quantity in common.
    """
    if len(reports) < 2:
        raise EquivProbeError(f"{len(reports)} report", "two or more", "equiv-probe compare A.json B.json")
    names = names or _names(reports)
    quantities = list(dict.fromkeys(m.name for report in reports for m in report.measured))
    found = []
    for quantity in quantities:
        having = [
            (name, report, report[quantity])
            for name, report in zip(names, reports, strict=True)
            if any(m.name == quantity for m in report.measured)
        ]
        _same_units(quantity, having)
        for kind in ("√L_equiv", "share", "L_total", "L_mean"):
            entries = _entries(having, kind)
            if len(entries) > 1:
                labelled = having[0][2].labelled
                unit = having[0][2].unit if kind == "√L_equiv" or labelled is None else labelled.unit
                unit = "%" if kind == "share" else unit
                found.append(Contrast(quantity, kind, unit, kind != "share", entries))
    if not found:
        listed = "; ".join(", ".join(m.name for m in report.measured) or "nothing" for report in reports)
        raise EquivProbeError(f"reports of {listed}", "a quantity in common")
    return Comparison(list(names), found)


def _names(reports: Sequence[Report]) -> list[str]:
    models = [report.model for report in reports]
    return [m if models.count(m) == 1 else f"{m} ({place})" for place, m in enumerate(models, 1)]


def _same_units(quantity: str, having: Sequence[tuple[str, Report, Measured]]) -> None:
    units = {m.unit for _, _, m in having}
    losses = {m.labelled.loss for _, _, m in having if m.labelled is not None}
    for found in (units, losses):
        if len(found) > 1:
            raise EquivProbeError(f"{quantity} in {', '.join(sorted(found))}", "one unit and one loss in all reports")


def _entries(having: Sequence[tuple[str, Report, Measured]], kind: str) -> list[Entry]:
    entries: list[Entry] = []
    base: tuple[Report, Measured] | None = None
    for name, report, m in having:
        value, low, high = _estimate(m, kind)
        if not math.isfinite(value):
            continue
        if base is None:
            base = report, m
            entries.append(Entry(name, value, low, high, m.verdict))
            continue
        if kind in {"√L_equiv", "share"} and m.verdict in SAME and base[1].verdict in SAME:
            against = Change(how="neither is above its floor")
        else:
            against = _against(base, (report, m), kind)
        entries.append(Entry(name, value, low, high, m.verdict, against))
    return entries


def _estimate(m: Measured, kind: str) -> tuple[float, float, float]:
    """Value and 95 % interval as the report has them; shares in percent."""
    if kind == "√L_equiv":
        return m.rms, *m.rms_interval
    known = m.labelled
    if known is None:
        return NAN, NAN, NAN
    if kind == "share":
        low, high = known.share_interval
        return 100 * known.share, 100 * low, 100 * high
    value, error = (known.total, known.total_stderr) if kind == "L_total" else (known.mean, known.mean_stderr)
    reach = float(stdtrit(known.structures - 1, 0.975)) * error if known.structures > 1 else NAN
    return value, value - reach, value + reach


def _against(base: tuple[Report, Measured], other: tuple[Report, Measured], kind: str) -> Change:
    ratio = kind != "share"
    samples = [_samples(report, m.name, kind) for report, m in (base, other)]
    if all(len(one) > 1 for one in samples):
        found = change(samples[0], samples[1], ratio=ratio)
        if kind == "√L_equiv":  # samples are of L_equiv itself
            return Change(math.sqrt(found.value), math.sqrt(found.low), math.sqrt(found.high), found.p, found.how)
        scale = 100 if kind == "share" else 1
        return Change(scale * found.value, scale * found.low, scale * found.high, found.p, found.how)
    return _of_estimates(base[1], other[1], kind)


def _of_estimates(base: Measured, other: Measured, kind: str) -> Change:
    """For runs, which keep no structures: the estimates as if independent."""
    if kind == "√L_equiv" or base.labelled is None or other.labelled is None:
        return Change(how="no values by structure")
    key = {"share": "share", "L_total": "total", "L_mean": "mean"}[kind]
    sides = [(getattr(m, key), getattr(m, f"{key}_stderr"), m.structures) for m in (base.labelled, other.labelled)]
    how = "not paired, from the estimates' own error bars"
    if kind == "share":
        sides = [(100 * value, 100 * error, count) for value, error, count in sides]
    elif all(value > 0 for value, _, _ in sides):
        sides = [(math.log(value), error / value, count) for value, error, count in sides]
    else:
        return Change(how=how)
    (a, da, na), (b, db, nb) = sides
    if min(na, nb) < 2:
        how = "one batch or structure alone: no error bars over them"
    variance, dof = welch((da * da, db * db), (na, nb))
    return tested(b - a, variance, dof, ratio=kind != "share", how=how)


def _samples(report: Report, quantity: str, kind: str) -> dict[tuple[str, str, int], tuple[float, float]]:
    """``(a, b)`` by structure, of which the number is ``Σa / Σb``."""
    found = {}
    for record in report.structures:
        values = record["quantities"].get(quantity)
        source = values if kind == "√L_equiv" or values is None else values.get("labelled")
        if source is None:
            continue
        weight = source["weight"]
        upper = {"√L_equiv": "equiv", "share": "equiv", "L_total": "total", "L_mean": "mean"}[kind]
        row = (source[upper], source["total"] * weight if kind == "share" else weight)
        if row[0] is not None and weight:
            found[record["name"], record["formula"], record["n_atoms"]] = (row[0] * weight, row[1])
    return found


def p_value(p: float) -> str:
    """A probability as people write it, small ones as a bound."""
    return "–" if not math.isfinite(p) else "< 1e-4" if p < 1e-4 else number(p, 2)


def _table(contrast: Contrast) -> Any:
    unit = f" ({contrast.unit})" if contrast.unit else ""
    columns = ("", contrast.number, "95 % interval", "ratio" if contrast.ratio else "difference", "95 % interval", "p")
    table = table_of(f"{contrast.quantity}: {contrast.number}{unit}", *columns, wraps=("",))
    table.add_column("how", justify="left")
    for entry in contrast.entries:
        held = entry.change
        cells = [entry.report, number(entry.value), interval(entry.low, entry.high), number(held.value)]
        cells += [interval(held.low, held.high), p_value(held.p), held.how]
        table.add_row(*map(Text, cells))
    yield table
