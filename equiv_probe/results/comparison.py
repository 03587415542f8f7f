"""Reports side by side, and which differences between them are more than chance."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.differences import holm
from equiv_probe.report.formatting import interval, number, shown, table_of
from equiv_probe.report.saving import as_json, write
from equiv_probe.results.comparison_summary import summary
from equiv_probe.results.contrasts import NUMBERS, Contrast, entries_of
from equiv_probe.results.pairing import Pairing
from equiv_probe.results.report import without_nan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.table import Table

    from equiv_probe.results.report import Measured, Report


@dataclass(frozen=True)
class Comparison:
    """Reports side by side; the first is what the others are held against.

    Attributes:
        names: of the reports.
        contrasts: number by number.
        tests: how many comparisons have a p value: what ``p_holm`` is corrected for.
        notes: what a reader must know of the reports to read their differences.
    """

    names: list[str]
    contrasts: list[Contrast]
    tests: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """What differs by more than chance, in one sentence."""
        return summary(self)

    @property
    def meaning(self) -> str:
        """What intervals and p values are, in words."""
        return (
            "Changes are against the first, with 95 % intervals of their own. p: how likely chance alone makes as "
            f"large a difference here; Holm: the same, corrected for all {self.tests} that were made. Below "
            "5 % there, a difference is more than the luck of having compared many."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; what could not be compared is None."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain

    def save(self, path: str | Path) -> None:
        """Write ``.json`` or ``.html``.

        Raises:
            EquivProbeError: another suffix.
        """
        write(path, {".json": lambda: as_json(self.to_dict()), ".html": self._page})

    def _page(self) -> str:
        from equiv_probe.report.page import comparison_page

        return comparison_page(self)

    def __rich_console__(self, console: Console, options: Any) -> Any:
        """The sentence, and one table per number."""
        yield Text(shown(self.summary), "bold")
        for contrast in self.contrasts:
            yield _table(contrast)
        for note in self.notes:
            yield Text.assemble(("Note: ", "bold"), note)
        yield Text(self.meaning)

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=120, highlight=False, color_system=None)
        console.print(self)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())


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
        for kind in NUMBERS:
            entries = entries_of(having, kind)
            if len(entries) > 1:
                found.append(Contrast(quantity, kind, _unit(having, kind), kind != "share", entries))
    if not found:
        listed = "; ".join(", ".join(m.name for m in report.measured) or "nothing" for report in reports)
        raise EquivProbeError(f"reports of {listed}", "a quantity in common")
    corrected = _corrected(found)
    tests = sum(math.isfinite(entry.change.p) for one in found for entry in one.entries)
    return Comparison(list(names), corrected, tests, _notes(reports, names))


def _corrected(contrasts: list[Contrast]) -> list[Contrast]:
    """Every p value corrected for all of the comparison."""
    p = iter(holm([entry.change.p for one in contrasts for entry in one.entries]))
    return [
        replace(
            one,
            entries=[replace(entry, change=replace(entry.change, p_holm=next(p))) for entry in one.entries],
        )
        for one in contrasts
    ]


def _notes(reports: Sequence[Report], names: Sequence[str]) -> list[str]:
    """Where differences may be those of the data as much as of the models."""
    first, *others = zip(names, reports, strict=True)
    notes = []
    for name, report in others:
        if not (report.structures and first[1].structures):
            continue
        pairing = Pairing.of(list(first[1].structures), list(report.structures))
        common = len(set(pairing.first) & set(pairing.second))
        if 2 * common < max(len(pairing.first), len(pairing.second)):
            notes.append(
                f"{name} and {first[0]} have {common or 'no'} structure{'s' * (common != 1)} in common "
                f"(of {len(pairing.second)} and {len(pairing.first)}): differences between them may be those of the "
                "structures as much as of the models"
            )
    return notes


def _unit(having: Sequence[tuple[str, Report, Measured]], kind: str) -> str:
    if kind == "share":
        return "%"
    known = next((m.labelled for _, _, m in having if m.labelled is not None), None)
    return having[0][2].unit if kind == "√L_equiv" or known is None else known.unit


def _names(reports: Sequence[Report]) -> list[str]:
    models = [report.model for report in reports]
    return [m if models.count(m) == 1 else f"{m} ({place})" for place, m in enumerate(models, 1)]


def _same_units(quantity: str, having: Sequence[tuple[str, Report, Measured]]) -> None:
    units = {m.unit for _, _, m in having}
    losses = {m.labelled.loss for _, _, m in having if m.labelled is not None}
    for found in (units, losses):
        if len(found) > 1:
            raise EquivProbeError(f"{quantity} in {', '.join(sorted(found))}", "one unit and one loss in all reports")


def p_value(p: float) -> str:
    """A probability as people write it, small ones as a bound."""
    return "–" if not math.isfinite(p) else "< 1e-4" if p < 1e-4 else number(p, 2)


def _table(contrast: Contrast) -> Table:
    unit = f" ({contrast.unit})" if contrast.unit else ""
    change = "ratio" if contrast.ratio else "difference"
    columns = ("", contrast.number, "95 % interval", change, "95 % interval", "p", "Holm")
    table = table_of(f"{contrast.quantity}: {contrast.number}{unit}", *columns, wraps=("",))
    table.add_column("how", justify="left")
    for entry in contrast.entries:
        held = entry.change
        cells = [entry.report, number(entry.value), interval(entry.low, entry.high), number(held.value)]
        cells += [interval(held.low, held.high), p_value(held.p), p_value(held.p_holm), held.how]
        table.add_row(*map(Text, cells))
    return table
