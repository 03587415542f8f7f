"""What the numbers of a training run are of: which step, how many batches, and whether they are more than rounding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.report.document import Table, columns
from equiv_probe.results.verdict_words import judged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equiv_probe.report.document import Cell
    from equiv_probe.results.measured import Measured


def run_table(measured: Sequence[Measured], *, doubted: bool = False) -> list[Table]:
    """When each row was measured last, and its verdict beside its floor; nothing of what is no training run.

    Args:
        measured: the rows.
        doubted: a control failed: no verdict is shown as good.
    """
    of_run = [m for m in measured if m.step is not None]
    if not of_run:
        return []
    heads = columns(
        "quantity", "at step", "floor, share", "verdict", text=("quantity", "verdict"), percent=("floor, share",)
    )
    rows: list[list[Cell]] = [[m.title, m.step, _floor_share(m), judged(m, doubted=doubted)] for m in of_run]
    caption = "The floor is what the same measurement reads where only rounding differs."
    return [Table("When it was measured last, and whether it is more than rounding", heads, rows, caption)]


def _floor_share(m: Measured) -> float:
    if m.labelled is None or not m.labelled.total > 0:
        return math.nan
    return abs(m.floor) / m.labelled.total
