"""Gradients as a Rich table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.text import Text

from equiv_probe.report.formatting import number, shown, table_of, with_error
from equiv_probe.report.stored import finite
from equiv_probe.results.gradient_sentence import limit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

_COLUMNS = {
    "norm_total": "‖∇L_total‖",
    "norm_mean": "‖∇L_mean‖",
    "norm_equiv": "‖∇L_equiv‖",
    "ratio": "equiv / mean",
    "cosine": "cosine",
}
HEADS = ("parameters", "how many", *_COLUMNS.values())
"""Of the columns."""


def table(found: Mapping[str, Any], title: str = "") -> Table:
    """One row for each group of parameters.

    Args:
        found: as :meth:`equiv_probe.landscape.gradients.Gradients.to_dict` gives it.
        title: of the table.
    """
    made = table_of(shown(title), *HEADS)
    for name, row in found["groups"].items():
        made.add_row(*(Text(shown(cell)) for cell in cells(name, row)))  # square brackets in names are not markup
    return made


def cells(name: str, row: Mapping[str, Any]) -> list[str]:
    """The row of a group of parameters as text; what is less than its noise as an upper limit.

    Args:
        name: of the group.
        row: of it, as :meth:`equiv_probe.landscape.gradients.Gradients.to_dict` gives it.
    """
    count = finite(row.get("parameters"))
    return [name, f"{count:.0f}" if math.isfinite(count) else "–", *(_entry(row, key) for key in _COLUMNS)]


def _entry(row: Mapping[str, Any], key: str) -> str:
    value, stderr = finite(row[key]), finite(row[f"{key}_stderr"])
    if math.isfinite(value):
        return with_error(value, stderr)
    high = limit(row) if key == "ratio" else finite((row.get(f"{key}_interval") or (None, None))[1])
    return f"< {number(high, 2)}" if math.isfinite(high) and key != "cosine" else "–"
