"""What a page says of the gradients of a run: a sentence and a table of each output, and their course."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe.report.formatting import with_error
from equiv_probe.report.page.views import Rows
from equiv_probe.results import gradient_plots
from equiv_probe.results.gradient_sentence import sentence
from equiv_probe.results.gradient_table import HEADS, cells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe.report.page.views import Figures
    from equiv_probe.results.report import Report


_CAPTION = (
    "over the latest measurements (± standard error). Norms are free of the length that noise adds; what is less than "
    "its noise is given as the upper end of its 95 % interval."
)


def sentences(report: Report) -> dict[str, str]:
    """What was found of all parameters, by output; empty where they are not in the report."""
    wholes = {name: one["groups"].get("all") for name, one in report.gradients.items()}
    return {name: sentence(whole) if whole else "" for name, whole in wholes.items()}


def tables(report: Report) -> list[Rows]:
    """The gradients of every output by group of parameters."""
    found = []
    for name, one in report.gradients.items():
        title = f"Gradients of {name} by group of parameters"
        rows = [cells(group, row) for group, row in one["groups"].items()]
        found.append(Rows(title, f"{title}, {_CAPTION}", HEADS, rows))
    return found


def add(figures: Figures[Report], report: Report) -> None:
    """Draw ratio and cosine over the run, where there is a history."""
    for name, one in report.gradients.items():
        for value, title in (("ratio", "Ratio of the gradients"), ("cosine", "Angle between the gradients")):
            text = _text(one.get("history", []), value)
            figures.add("gradients", gradient_plots.history, f"{title}: {name}", text, value, name)


def _text(history: Sequence[Mapping[str, Any]], value: str) -> str:
    course = gradient_plots.course(history, value)
    if not len(course):
        return ""
    (first, at_first, its_error), (last, at_last, error) = course[0], course[-1]
    ends = f"{with_error(at_first, its_error)} at step {first:g}"
    if len(course) > 1:
        ends += f", {with_error(at_last, error)} at step {last:g}"
    lost = len(history) - len(course)
    missing = f" At {lost} of {len(history)} measurements a gradient was less than its noise." if lost else ""
    what = "‖∇L_equiv‖ / ‖∇L_mean‖ of" if value == "ratio" else "Cosine of the angle, of"
    beyond = " Noise may take a cosine beyond one." if value == "cosine" else ""
    return f"{what} all parameters: {ends}. With one standard error, over blocks of rotations.{missing}{beyond}"
