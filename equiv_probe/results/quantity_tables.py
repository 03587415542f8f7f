"""Tables of the quantities of a report: the equivariance error, the parts of the loss, and how the error is spread."""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import TYPE_CHECKING

from equiv_probe.estimation.running import USER_DEFINED, USER_DEFINED_BEFORE
from equiv_probe.report.document import (
    EVERYWHERE,
    GRAPHICAL,
    TERMINAL,
    Bound,
    Column,
    Figure,
    Table,
    Uncertain,
    columns,
)
from equiv_probe.report.formatting import finite, number
from equiv_probe.results import plots
from equiv_probe.results.verdict_words import judged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equiv_probe.report.document import Block, Cell
    from equiv_probe.results.measured import Labelled, Measured

OWN_LOSS = "loss"
"""The unit of a loss that a step computed itself: the probe does not know what it is made of."""
_MUCH = 10.0
"""Relative errors above this are shown as a bound: the average nearly cancels."""
_RANKED = 8


def symmetry_table(measured: Sequence[Measured], *, doubted: bool = False) -> Table:
    """The root error of every quantity beside its floor, with the verdict.

    ``doubted`` where a control failed: then no verdict is shown as good.
    """
    part = Column("relative", kind="percent")
    heads = columns("quantity", "√L_equiv", "95 % interval", "unit", part, "floor", "verdict")
    rows: list[list[Cell]] = []
    for m in measured:
        relative = Bound(_MUCH, ">") if m.relative >= _MUCH else m.relative
        verdict = judged(m, doubted=doubted)
        rows.append([m.title, m.rms, m.rms_interval, m.unit, relative, m.highest_floor, verdict])
    caption = "Equivariance error, root mean square over rotations, structures and components."
    return Table("Equivariance error (root mean square over rotations)", heads, rows, caption)


def loss_blocks(having: Sequence[tuple[str, Labelled]]) -> list[Block]:
    """The decomposition of every loss as a table and a figure; nothing where there is no loss."""
    if not having:
        return []
    counts = sorted({known.structures for _, known in having})
    many = " to ".join(map(str, sorted({counts[0], counts[-1]})))
    title = f"Loss ({having[0][1].loss}) against the reference on {many} structure{'s' * (many != '1')}"
    kinds = {known.loss for _, known in having}
    has_units = any(known.unit != OWN_LOSS for _, known in having) or len(kinds) > 1
    if any(known.unit == OWN_LOSS for _, known in having):
        title = f"Losses of the run ({', '.join(sorted(kinds))})"
    share = [Column(name, kind="percent") for name in ("share of the loss", "95 % interval")]
    over = [Column("over")] if len(counts) > 1 or not has_units else []
    heads = columns("quantity", "L_total", "L_mean", "L_equiv", *(["unit"] if has_units else []), *share, *over)
    rows: list[list[Cell]] = [
        [
            name,
            Uncertain(known.total, known.total_stderr),
            Uncertain(known.mean, known.mean_stderr),
            Uncertain(known.equiv, known.equiv_stderr),
            *([known.loss if known.unit == OWN_LOSS else f"{known.loss}, {known.unit}"] if has_units else []),
            Uncertain(known.share, known.share_stderr),
            known.share_interval,
            *([counted_as(known)] if over else []),
        ]
        for name, known in having
    ]
    caption = (
        "L_total = L_mean + L_equiv: under random rotation, of the model averaged over rotations, and what broken "
        "symmetry adds (± standard error)."
    )
    figure = Figure(
        "Parts of the loss", lambda ax: plots.share(having, ax), _share_text(having), height=1.5 + 0.45 * len(having),
        on=GRAPHICAL,
    )  # fmt: skip
    return [figure, Table(f"{title}: L_total = L_mean + L_equiv", heads, rows, caption, on=EVERYWHERE)]


def counted_as(known: Labelled) -> str:
    """What the estimate is over: batches of which the step made one number, or structures."""
    kind = "batch" if known.loss in {USER_DEFINED, USER_DEFINED_BEFORE} else "structure"
    plural = {"batch": "batches", "structure": "structures"}
    return f"{known.structures} {kind if known.structures == 1 else plural[kind]}"


def spread_tables(measured: Sequence[Measured]) -> list[Table]:
    """Quantiles over structures, and over single rotations."""
    quantiles = ("median", "95 %", "max")
    over_structures: list[list[Cell]] = []
    over_rotations: list[list[Cell]] = []
    for m in measured:
        structures, rotations = (
            [where.get("q50", math.nan), where.get("q95", math.nan), where.get("max", math.nan)]
            for where in (m.over_structures, m.over_rotations)
        )
        over_structures.append([m.title, *structures, m.unit, m.over_structures.get("worst", "")])
        of_atoms = m.largest if m.by_element or m.worst_atoms else math.nan
        over_rotations.append([m.title, *rotations, of_atoms, m.unit])
    of_structures = columns("quantity", *quantiles, "unit", "worst structure")
    of_rotations = columns("quantity", *quantiles, "one atom, max", "unit")
    return [
        Table("Spread over structures", of_structures, over_structures, on=TERMINAL),
        Table("Spread over single rotations", of_rotations, over_rotations, on=TERMINAL),
    ]


def element_table(m: Measured) -> Table:
    """The elements with the largest root error beside the worst atoms."""
    ranked = sorted(m.by_element.items(), key=lambda item: -finite(item[1]["rms"]))[:_RANKED]
    worst = m.worst_atoms[:_RANKED]
    rows: list[list[Cell]] = []
    for element, atom in zip_longest(ranked, worst):
        row: list[Cell] = ["", None, None]
        if element is not None:
            count = finite(element[1]["atoms"])
            row = [element[0], finite(element[1]["rms"]), int(count) if math.isfinite(count) else count]
        where = "" if atom is None else f"{atom['element']}{atom['atom']} of {atom['structure']}"
        rows.append([*row, where, None if atom is None else finite(atom["rms"])])
    heads = columns("element", "√L_equiv", "atoms", "worst atom", "√L_equiv")
    return Table(f"Where: {m.title} by element, and the worst atoms ({m.unit})", heads, rows, on=TERMINAL)


def _share_text(having: Sequence[tuple[str, Labelled]]) -> str:
    parts = []
    for name, known in having:
        low, high = (100 * end for end in known.share_interval)
        between = f" ({number(low)} to {number(high)})" if math.isfinite(low) else ""
        parts.append(f"{name}: {number(100 * known.share)} %{between}")
    return f"L_equiv as a part of L_total, with 95 % intervals. {'; '.join(parts)}."


def run_table(measured: Sequence[Measured], *, doubted: bool = False) -> list[Table]:
    """When each row was measured last, and its verdict beside its floor; nothing of what is no training run.

    Args:
        measured: the rows.
        doubted: a control failed: no verdict is shown as good.
    """
    of_run = [m for m in measured if m.step is not None]
    if not of_run:
        return []
    heads = columns("quantity", "at step", Column("floor, share", kind="percent"), "verdict")
    rows: list[list[Cell]] = [[m.title, m.step, _floor_share(m), judged(m, doubted=doubted)] for m in of_run]
    caption = "The floor is what the same measurement reads where only rounding differs."
    return [Table("When it was measured last, and whether it is more than rounding", heads, rows, caption)]


def _floor_share(m: Measured) -> float:
    if m.labelled is None or not m.labelled.total > 0:
        return math.nan
    return abs(m.floor) / m.labelled.total
