"""Tables of estimates, for people with an interval beside each number, and as plain rows for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from equiv_probe.report.document import Column, Table
from equiv_probe.scaling.estimates import Estimate, shown

if TYPE_CHECKING:
    from equiv_probe.report.document import Cell

Columns: TypeAlias = Sequence[tuple[Column, Sequence[str | float | Estimate]]]
"""Heads, each with its values."""


def table(title: str, columns: Columns, level: float) -> Table:
    """A table with a column of intervals after each column of estimates; infinity has its sign."""
    heads: list[Column] = []
    cells: list[list[Cell]] = []
    for head, values in columns:
        heads.append(head)
        numbers = (one.value if isinstance(one, Estimate) else one for one in values)
        cells.append([one if isinstance(one, str) else shown(one) for one in numbers])
        spans = [one.interval for one in values if isinstance(one, Estimate)]
        if spans:
            heads.append(Column(f"{100 * level:g} % interval"))
            cells.append(list(spans))
    return Table(title, heads, list(zip(*cells, strict=True)))


def rows(columns: Columns) -> list[dict[str, Any]]:
    """A dict for each row; the ends of intervals are entries of their own."""
    return [
        {
            key: value
            for (head, _), one in zip(columns, row, strict=True)
            for key, value in (one.row(head.name) if isinstance(one, Estimate) else {head.name: one}).items()
        }
        for row in zip(*(values for _, values in columns), strict=True)
    ]
