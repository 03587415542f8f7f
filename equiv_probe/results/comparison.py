"""Reports side by side, and which differences between them are more than chance."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec
from msgspec.structs import replace

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.differences import holm
from equiv_probe.report.document import (
    TERMINAL,
    WHOLE,
    Bound,
    Column,
    Document,
    Figure,
    Note,
    Paragraph,
    Section,
    Table,
    columns,
)
from equiv_probe.report.record import Record
from equiv_probe.results.comparison_summary import contrast, headline, meaning
from equiv_probe.results.contrasts import NUMBERS, Contrast, entries_of
from equiv_probe.results.controls import gravest
from equiv_probe.results.pairing import Pairing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe.report.document import Cell, Headline
    from equiv_probe.results.report import Measured, Report

LEAST = 1e-4
"""Smaller probabilities are shown as a bound."""


class Comparison(Record, frozen=True):
    """Reports side by side; the first is what the others are compared with.

    Attributes:
        names: of the reports.
        contrasts: number by number.
        tests: how many comparisons have a p value: what ``p_holm`` is corrected for.
        notes: what a reader must know of the reports to read their differences.
        doubted: names of the reports of which a control failed.
    """

    kind: ClassVar[str] = "comparison"

    names: list[str]
    contrasts: list[Contrast]
    tests: int = 0
    notes: list[str] = msgspec.field(default_factory=list)
    doubted: list[str] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse a comparison of nothing."""
        if not self.names:
            raise ValueError("names: none, and at least two are expected")

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Undo ``to_dict``; what version 1 wrote does not name its version."""
        is_first = isinstance(stored, dict) and "contrasts" in stored and "kind" not in stored
        return super().from_dict({"schema_version": 1, **stored} if is_first else stored)

    @classmethod
    def upgraded(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had the same entries, and did not say over how many structures a value is."""
        return stored

    @property
    def summary(self) -> str:
        """What differs by more than chance, in one sentence."""
        return self._headline().answer

    @property
    def meaning(self) -> str:
        """What intervals and p values are, in words."""
        return meaning(self.tests)

    def document(self) -> Document:
        """What differs, then a figure and a table of each number."""
        first, *others = self.names
        quantities = dict.fromkeys(one.quantity for one in self.contrasts)
        return Document(
            f"{first} beside {', '.join(others)}" if others else first,
            ", ".join(quantities) or "nothing",
            [
                self._headline(),
                *(Note(note, warning=True) for note in self.notes),
                *(_section(one) for one in self.contrasts),
                Paragraph(self.meaning, on=TERMINAL),
            ],
        )

    def _headline(self) -> Headline:
        found = headline(self.names, self.contrasts, self.tests)
        if not self.doubted:
            return found
        failed = f"Not to be believed: a control of {' and of '.join(self.doubted)} failed."
        return dataclasses.replace(found, answer=f"{failed} {found.answer}", severity="bad")

    def rows(self) -> list[dict[str, Any]]:
        """One row per number and report."""
        return [
            {
                **{name: getattr(one, name) for name in ("quantity", "number", "unit")},
                **{name: getattr(entry, name) for name in ("report", "value", "low", "high", "structures", "verdict")},
                "change": "ratio" if one.ratio else "difference",
                **{f"change_{name}": getattr(entry.change, name) for name in entry.change.__dataclass_fields__},
            }
            for one in self.contrasts
            for entry in one.entries
        ]


def compare(reports: Sequence[Report], names: Sequence[str] | None = None) -> Comparison:
    """Put every number of every quantity side by side that at least two of the reports have.

    Args:
        reports: the first is what the others are compared with.
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
    failed = [
        (name, control)
        for name, report in zip(names, reports, strict=True)
        if (control := gravest(report.controls)) is not None
    ]
    notes = [f"{name}: a control failed: {control.sentence}" for name, control in failed]
    return Comparison(
        list(names), corrected, tests, [*notes, *_notes(reports, names)], doubted=[name for name, _ in failed]
    )


def _corrected(contrasts: list[Contrast]) -> list[Contrast]:
    """Every p value corrected for all of the comparison."""
    p = iter(holm([entry.change.p for one in contrasts for entry in one.entries]))
    return [replace(one, entries=[entry.corrected(next(p)) for entry in one.entries]) for one in contrasts]


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


def _section(one: Contrast) -> Section:
    title = f"{one.quantity}: {one.number}" + (f" ({one.unit})" if one.unit else "")
    text = f"{one.number} of {one.quantity} with 95 % intervals; the table holds the numbers."
    height = 1.0 + 0.35 * len(one.entries)
    figure = Figure(title, partial(contrast, one), text, height=height)
    return Section(title, [figure, _table(one, title)], on=WHOLE)


def _table(one: Contrast, title: str) -> Table:
    change, tests = "ratio" if one.ratio else "difference", [Column(name, digits=2) for name in ("p", "Holm")]
    heads = columns("report", one.number, "95 % interval", "over", change, "95 % interval", *tests, "how")
    rows: list[list[Cell]] = []
    for entry in one.entries:
        found = entry.change
        row: list[Cell] = [entry.report, entry.value, (entry.low, entry.high), entry.structures or None]
        row += [found.value, (found.low, found.high), p_value(found.p), p_value(found.p_holm), found.how]
        rows.append(row)
    return Table(title, heads, rows, "Values and changes are over the same structures.")


def p_value(p: float) -> Cell:
    """A probability as a cell, small ones as a bound."""
    return Bound(LEAST) if p < LEAST else p
