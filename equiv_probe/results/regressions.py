"""What got worse from one report to the next: for guards of releases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.report.formatting import number
from equiv_probe.results.contrasts import SAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equiv_probe.results.comparison import Comparison
    from equiv_probe.results.contrasts import Contrast, Entry
    from equiv_probe.results.report import Report

LIMIT = 0.05
"""Growth of an error that is let pass."""
LEVEL = 0.05
"""Of significance, after Holm's correction for all comparisons of the reports."""


def regressions(found: Comparison, reports: Sequence[Report], limit: float = LIMIT) -> list[str]:
    """The errors that are larger than in the first report, a sentence each; empty where none is.

    An error counts as larger where √L_equiv grew by more than the limit and by more than chance (Holm's p below 0.05),
    or where it was rounding in the first report and is more than that now. What a later report did not measure, or what
    a failed control says is not to be believed, is listed too: a guard does not wave through what it could not see.

    Args:
        found: the reports side by side; all are compared with the first.
        reports: they themselves.
        limit: growth that is let pass, as a part of the first report's error.
    """
    lines = [f"a control of {name} failed: its numbers are not to be believed" for name in found.doubted]
    names = [{one.name: None for one in report.measured} for report in reports]
    for name, measured in zip(found.names[1:], names[1:], strict=True):
        lines += [f"{quantity}: not measured in {name}" for quantity in names[0] if quantity not in measured]
    for one in found.contrasts:
        if one.number == "√L_equiv":
            lines += [line for entry in one.entries[1:] if (line := _grown(one, entry, limit))]
    return lines


def _grown(contrast: Contrast, entry: Entry, limit: float) -> str:
    first, name, quantity = contrast.entries[0], entry.report, contrast.quantity
    if first.verdict in SAME and entry.verdict not in (*SAME, ""):
        return f"{quantity}: √L_equiv was rounding in {first.report}, and is {_amount(entry, contrast)} in {name}"
    change = entry.change
    if not change.value > 1 + limit or entry.verdict in SAME:
        return ""
    grown = (
        f"{quantity}: √L_equiv of {name} is {number(change.value)} times that of {first.report} "
        f"({_amount(first, contrast)} → {_amount(entry, contrast)}"
    )
    p = change.p if math.isnan(change.p_holm) else change.p_holm
    if math.isnan(p):
        return f"{grown}; without an error bar, since {change.how})"
    return f"{grown}, p = {number(p)})" if p < LEVEL else ""


def _amount(entry: Entry, contrast: Contrast) -> str:
    return f"{number(entry.value)} {contrast.unit}".rstrip()
