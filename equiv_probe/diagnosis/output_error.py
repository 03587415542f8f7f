"""How large the symmetry error of each output is, for the record and as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.report.document import Table, Verdict, columns
from equiv_probe.report.record import Part
from equiv_probe.results.verdict_words import severity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equiv_probe.report.document import Cell


class OutputError(Part, frozen=True):
    """How large the symmetry error of one output is.

    Attributes:
        name: of the output.
        unit: of the numbers, empty where not known.
        rms: √L_equiv on the input that was looked at.
        floor: what rounding leaves.
        noise: what repeating the same input makes.
        size: root mean square of the output.
        verdict: a word.
        sentence: it in words.
    """

    name: str
    unit: str
    rms: float
    floor: float
    noise: float
    size: float
    verdict: str
    sentence: str


def error_table(outputs: Sequence[OutputError]) -> Table:
    """A row for each output."""
    heads = columns("output", "symmetry error", "floor", "from call to call", "size", "unit", "verdict")
    rows: list[list[Cell]] = [
        [o.name, o.rms, o.floor, o.noise, o.size, o.unit, Verdict(o.verdict, severity(o.verdict), o.sentence)]
        for o in outputs
    ]
    return Table("Symmetry error on what was looked at", heads, rows)
