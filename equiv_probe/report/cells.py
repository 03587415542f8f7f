"""Cells of tables as text: every renderer shows the same digits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.report.document import Bound, Uncertain, Verdict
from equiv_probe.report.formatting import UNDETERMINED, number, percent, says_nothing, span

if TYPE_CHECKING:
    from equiv_probe.report.document import Cell, Column, Headline

MISSING = "–"
"""The text of a value that was not measured."""


def text_of(cell: Cell, column: Column) -> str:
    """A cell as text.

    >>> from equiv_probe.report.document import Column
    >>> share = Column("share", kind="percent")
    >>> text_of(0.25, share), text_of(Uncertain(0.25, 0.01), share), text_of((0.2, 0.3), share)
    ('25.0 %', '25.0 % ± 1.00 %', '[20.0 %, 30.0 %]')
    >>> text_of((9.8e-4, 4.0e43), Column("rms"))  # at round-off
    'not determined'
    >>> text_of(Bound(10.0, ">"), share), text_of(math.nan, Column("rms")), text_of(None, Column("rms"))
    ('> 1000 %', '–', '')
    """
    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, Verdict):
        return cell.sentence or cell.kind or "not judged"
    if isinstance(cell, tuple):
        return _interval(*cell, column)
    if isinstance(cell, Uncertain):
        value = _number(cell.value, column)
        known = math.isfinite(cell.stderr) and not value.startswith("<")  # of next to nothing there is no error
        return f"{value} ± {_number(cell.stderr, column, error=True)}" if known else value
    if isinstance(cell, Bound):
        return f"{cell.side} {_bound(cell.value, column)}"
    return _number(cell, column)


def _interval(low: float, high: float, column: Column) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return MISSING
    return UNDETERMINED if says_nothing(low, high) else f"[{_number(low, column)}, {_number(high, column)}]"


def said(top: Headline) -> str:
    """The number with its unit and its interval, as far as the sentence does not hold them already."""
    number_, ends = f"{value_of(top)} {top.unit}".rstrip(), interval_of(top)
    number_ = "" if number_ in top.answer or not has_number(top) else number_
    return f"{number_}{f' (95 % interval {ends})' if ends else ''}".strip()


def has_number(top: Headline) -> bool:
    """Whether there is a number: without a unit, one that was not measured is none."""
    return bool(top.unit) or math.isfinite(top.value)


def value_of(top: Headline) -> str:
    """The number of a headline."""
    return number(top.value, top.digits)


def interval_of(top: Headline) -> str:
    """Its interval, ``128 to 148``; empty if there is none."""
    return span(*top.interval, top.digits)


def _number(value: float, column: Column, *, error: bool = False) -> str:
    if isinstance(value, int):
        return str(value)
    if column.kind == "percent":
        return percent(value) if math.isfinite(value) else MISSING
    return number(value, column.digits - error)


def _bound(value: float, column: Column) -> str:
    return f"{100 * value:.4g} %" if column.kind == "percent" else number(value, 2)
