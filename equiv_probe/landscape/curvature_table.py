"""Curvatures as a table: a row for every number, a column for every loss."""

from __future__ import annotations

import math
from io import StringIO
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import Console

from equiv_probe.landscape.conditioning import KINDS
from equiv_probe.report.formatting import interval, number, table_of, with_error
from equiv_probe.report.formatting import shown as printable
from equiv_probe.report.stored_landscape import MATRICES, NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from equiv_probe.estimation.estimates import Estimate
    from equiv_probe.landscape.curvature_estimates import LossCurvature
    from equiv_probe.landscape.curvature_record import Curvature
    from equiv_probe.landscape.saved_curvature import SavedCurvature, SavedLossCurvature

    AnyCurvature: TypeAlias = Curvature | SavedCurvature
    AnyLoss: TypeAlias = LossCurvature | SavedLossCurvature


def losses(found: AnyCurvature) -> list[tuple[str, AnyLoss]]:
    """The losses that were measured, as ``("L_mean", …)``."""
    return [(f"L_{name}", one) for name in NAMES if (one := getattr(found, name)) is not None]


def cells(found: AnyCurvature) -> tuple[list[str], list[list[str]]]:
    """Heads of the columns, and the rows, as text.

    Args:
        found: as it was measured, or as it was read from a file.
    """
    having = losses(found)
    both = found.mean is not None and found.equiv is not None
    heads = ["", *(name for name, _ in having), *(["L_mean / L_equiv"] if both else [])]
    rows: list[list[str]] = []

    def row(label: str, cell: Callable[[Any], str], last: str = "") -> None:
        rows.append([label, *(cell(one) for _, one in having), *([last] if both else [])])

    for label, name in (("largest eigenvalue", "largest"), ("smallest eigenvalue", "smallest"), ("trace", "trace")):
        row(label, lambda one, name=name: shown(getattr(one, name)))  # type: ignore[misc]
    if any(math.isfinite(one.bracket[0]) for _, one in having):
        row("largest lies within", lambda one: interval(*one.bracket))
    row("effective rank, tr² / ‖H‖²", lambda one: shown(one.rank))
    row("effective rank, entropy", lambda one: shown(one.entropy_rank))
    for kind in KINDS:
        row(
            f"condition number, {kind}",
            lambda one, kind=kind: shown(one.condition(kind)),  # type: ignore[misc]
            shown(found.ratio(kind)) if both else "",
        )
    return heads, rows


def table(found: AnyCurvature) -> Table:
    """A Rich table."""
    heads, rows = cells(found)
    size = next(one.size for _, one in losses(found))
    made = table_of(f"Curvature: {MATRICES[found.matrix]} in {size} parameters", *heads)
    for one in rows:
        made.add_row(*one)
    return made


def shown(estimate: Estimate) -> str:
    """A value with its standard error, where it has one."""
    value = estimate.value
    if math.isinf(value):
        return "∞"
    return with_error(value, estimate.stderr) if estimate.stderr > 1e-12 * abs(value) else number(value)


def printed(table: Table, notes: tuple[str, ...]) -> str:
    """A table as plain text, with notes below it."""
    out = StringIO()
    Console(file=out, width=140, highlight=False, color_system=None).print(table)
    lines = [line.rstrip() for line in out.getvalue().rstrip().splitlines()]
    return "\n".join([*lines, *(f"note: {printable(note)}" for note in notes)])
