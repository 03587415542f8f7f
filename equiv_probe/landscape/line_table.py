"""Losses along a line as a table: a row for each, with the power of its growth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from rich.text import Text

from equiv_probe.report.formatting import interval, number, shown, table_of, with_error

if TYPE_CHECKING:
    from rich.table import Table

    from equiv_probe.landscape.line_record import Line
    from equiv_probe.landscape.saved_line import SavedLine

    AnyLine: TypeAlias = Line | SavedLine


def cells(line: AnyLine) -> tuple[list[str], list[list[str]]]:
    """Heads of the columns, and the rows, as text.

    Args:
        line: as it was measured, or as it was read from a file.
    """
    heads = ["", "at t = 0", f"at t = {line.t[-1]:g}", "power of |t|", "95 % interval", "for |t| in"]
    rows = []
    for name, values, errors in line.named():
        fit = line.exponent(name.removeprefix("L_"))
        at = [with_error(float(values[k]), float(errors[k])) for k in (line.origin, -1)]
        power = number(fit.power.value, 4) if math.isfinite(fit.power.value) else fit.why
        ends = f"[{fit.power.low:.5g}, {fit.power.high:.5g}]" if math.isfinite(fit.power.low) else ""
        rows.append([name, *at, power, ends, interval(fit.low, fit.high)])
    return heads, rows


def table(line: AnyLine) -> Table:
    """A Rich table: the losses at 0 and at the ends, and the powers."""
    heads, rows = cells(line)
    title = f"Along a line ({shown(line.direction)}), t = 1 is {number(line.length)} of the weights' length"
    made = table_of(title, *heads)
    for row in rows:
        made.add_row(*(Text(shown(cell)) for cell in row))
    return made
