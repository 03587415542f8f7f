"""One run out of rows in the order in which they were logged, of a run that was resumed and logged things twice.

>>> rows = [{"step": s, "L_total": y} for s, y in [(0, 9.0), (10, 8.0), (20, 7.0), (15, 7.5), (20, 7.5), (25, 6.0)]]
>>> [(row["step"], row["L_total"]) for row in without_repeats(rows)]
[(0, 9.0), (10, 8.0), (15, 7.5), (25, 6.0)]
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

RUN = ("run", "stage", "output")
PLACE = (*RUN, "step", "epoch", "seconds", "time", "wall_time", "elapsed")


def without_repeats(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of each run, stage and output with rising steps.

    A step that goes back begins the run again from there: what came after it before is no part of it. Rows at one step
    are one row. A row that repeats the estimate before it, as a callback's logs do between measurements, is left out.

    Args:
        rows: in the order in which they were logged.
    """
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        kept = runs.setdefault(tuple(row.get(name) for name in RUN), [])
        step = row.get("step")
        if step is not None and not math.isnan(step):
            while kept and kept[-1]["step"] > step:
                kept.pop()
            if kept and kept[-1]["step"] == step:
                kept[-1] = {**kept[-1], **_known(row)}
                continue
            kept.append(row)
    return [row for kept in runs.values() for row in _changed(kept)]


def _known(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not (isinstance(value, float) and math.isnan(value))}


def _changed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def values(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in _known(row).items() if name not in PLACE}

    return [row for place, row in enumerate(rows) if place == 0 or values(row) != values(rows[place - 1])]
