"""Gradients by group of parameters as a table, with what was found of all of them in a sentence, and their course."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from equiv_probe.report.document import Bound, Column, Figure, Paragraph, Table, Uncertain
from equiv_probe.report.formatting import finite, with_error
from equiv_probe.results import gradient_plots
from equiv_probe.results.gradient_sentence import limit, sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe.report.document import Block, Cell

_NUMBERS = {
    "norm_total": "‖∇L_total‖",
    "norm_mean": "‖∇L_mean‖",
    "norm_equiv": "‖∇L_equiv‖",
    "ratio": "equiv / mean",
    "cosine": "cosine",
}
HEADS = ("parameters", "how many", *_NUMBERS.values())
"""Of the columns."""
_CAPTION = (
    "over the latest measurements (± standard error). Norms are free of the length that noise adds; what is less than "
    "its noise is given as the upper end of its 95 % interval."
)


def blocks(gradients: Mapping[str, Any]) -> list[Block]:
    """A sentence, the figures and a table of every output's gradients.

    Args:
        gradients: of a report.
    """
    many = len(gradients) > 1
    wholes = {name: one["groups"].get("all") for name, one in gradients.items()}
    said = [Paragraph(sentence(row) if row else "", name if many else "") for name, row in wholes.items()]
    drawn = [figure for name in gradients for figure in _figures(gradients, name)]
    tables = []
    for name, one in gradients.items():
        title = f"Gradients of {name} by group of parameters"
        tables.append(table(one, title, f"{title}, {_CAPTION}"))
    return [*said, *drawn, *tables]


def table(found: Mapping[str, Any], title: str = "", caption: str = "") -> Table:
    """One row for each group of parameters.

    Args:
        found: as :meth:`equiv_probe.landscape.gradients.Gradients.to_dict` gives it.
        title: of the table.
        caption: how to read it.
    """
    columns = [Column("parameters", kind="text"), *map(Column, HEADS[1:])]
    return Table(title, columns, [cells(name, row) for name, row in found["groups"].items()], caption)


def cells(name: str, row: Mapping[str, Any]) -> list[Cell]:
    """The row of a group of parameters; what is less than its noise as an upper limit.

    Args:
        name: of the group.
        row: of it, as :meth:`equiv_probe.landscape.gradients.Gradients.to_dict` gives it.
    """
    count = finite(row.get("parameters"))
    return [name, int(count) if math.isfinite(count) else math.nan, *(_entry(row, key) for key in _NUMBERS)]


def _entry(row: Mapping[str, Any], key: str) -> Cell:
    value, stderr = finite(row[key]), finite(row[f"{key}_stderr"])
    if math.isfinite(value):
        return Uncertain(value, stderr)
    high = limit(row) if key == "ratio" else finite((row.get(f"{key}_interval") or (None, None))[1])
    return Bound(high) if math.isfinite(high) and key != "cosine" else math.nan


def _figures(gradients: Mapping[str, Any], name: str) -> list[Figure]:
    """Ratio and cosine over the run, where there is a history."""
    history = gradients[name].get("history", [])
    return [
        Figure(f"{title}: {name}", partial(_drawn, gradients, value, name), _text(history, value))
        for value, title in (("ratio", "Ratio of the gradients"), ("cosine", "Angle between the gradients"))
        if len(gradient_plots.course(history, value))
    ]


def _drawn(gradients: Mapping[str, Any], value: str, name: str, ax: Any) -> Any:
    return gradient_plots.history(gradients, value, name, ax=ax)


def _text(history: Sequence[Mapping[str, Any]], value: str) -> str:
    course = gradient_plots.course(history, value)
    (first, at_first, its_error), (last, at_last, error) = course[0], course[-1]
    ends = f"{with_error(at_first, its_error)} at step {first:g}"
    if len(course) > 1:
        ends += f", {with_error(at_last, error)} at step {last:g}"
    lost = len(history) - len(course)
    missing = f" At {lost} of {len(history)} measurements a gradient was less than its noise." if lost else ""
    what = "‖∇L_equiv‖ / ‖∇L_mean‖ of" if value == "ratio" else "Cosine of the angle, of"
    beyond = " Noise may take a cosine beyond one." if value == "cosine" else ""
    return f"{what} all parameters: {ends}. With one standard error, over blocks of rotations.{missing}{beyond}"
