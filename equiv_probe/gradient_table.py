"""Gradients as a Rich table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.text import Text

from equiv_probe.report_table import number, shown, table_of, with_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

_HEADS = {
    "norm_total": "‖∇L_total‖",
    "norm_mean": "‖∇L_mean‖",
    "norm_equiv": "‖∇L_equiv‖",
    "ratio": "equiv / mean",
    "cosine": "cosine",
}


def table(found: Mapping[str, Any], title: str = "") -> Table:
    """One row for each group of parameters.

    Args:
        found: as :meth:`equiv_probe.gradients.Gradients.to_dict` gives it.
        title: of the table.
    """
    made = table_of(shown(title), "parameters", "how many", *_HEADS.values())
    for name, row in found["groups"].items():
        count = row.get("parameters")
        cells = (shown(name), "–" if count is None else f"{count}", *(_entry(row, key) for key in _HEADS))
        made.add_row(*map(Text, cells))  # square brackets in names are not markup
    return made


def _entry(row: Mapping[str, Any], key: str) -> str:
    value, stderr = (math.nan if row[name] is None else row[name] for name in (key, f"{key}_stderr"))
    if math.isfinite(value):
        return with_error(value, stderr)
    high = (row.get(f"{key}_interval") or (None, None))[1]
    return f"< {number(high, 2)}" if high is not None and math.isfinite(high) else "–"
