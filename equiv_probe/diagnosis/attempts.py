"""All experiments and how they went: a table, names in a terminal, and a figure of what they leave of an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.report.axes import ALARM, CALM, axes_or_new, figure, short, tidied
from equiv_probe.report.document import GRAPHICAL, TERMINAL, Paragraph, Table, Verdict, columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from equiv_probe.diagnosis.finding import Attempt, Finding, State
    from equiv_probe.report.document import Block, Cell, Severity

MOST = 12
"""Experiments that are shown."""
_STATES: dict[State, tuple[str, Severity]] = {
    "explains": ("explains it", "bad"),
    "found": ("broken too", "bad"),
    "partly": ("explains a part", "fair"),
    "excluded": ("not this", "good"),
    "not applicable": ("does not apply", "unknown"),
    "failed": ("could not be run", "unknown"),
    "not tried": ("not tried", "unknown"),
}


@figure
def what_is_left(found: Sequence[Finding], ax: Axes | None = None) -> Axes:
    """The part of the squared error that each experiment leaves, those that leave the least at the top."""
    ax = axes_or_new(ax)
    rows = sorted(found, key=lambda one: -one.part)[:MOST]
    left = [100 * min(1.0, max(0.0, 1 - one.part)) for one in rows]
    colours = [CALM if one.state in {"explains", "partly"} else ALARM for one in rows]
    ax.barh(range(len(rows)), left, color=colours, height=0.6)
    ax.set_yticks(range(len(rows)), [short(one.experiment) for one in rows])
    ax.invert_yaxis()
    ax.set_xlim(0, 103)
    ax.set_xlabel("of the squared error left, %")
    return tidied(ax, grid="x")


def attempt_blocks(attempts: Sequence[Attempt]) -> list[Block]:
    """A table where there is room; in a terminal names by how they went."""
    heads = columns("experiment", "question", "evaluations", "result", "why")
    rows: list[list[Cell]] = [
        [one.experiment, one.question, one.evaluations, Verdict(*_STATES[one.state]), one.why]
        for one in sorted(attempts, key=lambda one: list(_STATES).index(one.state))
    ]
    return [Table("All experiments", heads, rows, on=GRAPHICAL), *_in_a_terminal(attempts)]


def _in_a_terminal(attempts: Sequence[Attempt]) -> list[Block]:
    excluded = ", ".join(one.experiment for one in attempts if one.state == "excluded")
    not_tried = _by_reason(attempts, "not tried")
    more = " --all, or everything=True, tries them." if "already" in not_tried else ""
    lines = {
        "Excluded": excluded,
        "Does not apply": _by_reason(attempts, "not applicable"),
        "Could not be run": _by_reason(attempts, "failed"),
        "Not tried": not_tried,
    }
    return [
        Paragraph(f"{text}.{more if lead == 'Not tried' else ''}", lead, on=TERMINAL)
        for lead, text in lines.items()
        if text
    ]


def _by_reason(attempts: Sequence[Attempt], state: State) -> str:
    """Names of experiments that went one way, those of one reason together."""
    chosen = [one for one in attempts if one.state == state]
    reasons = dict.fromkeys(one.why for one in chosen)
    return "; ".join(f"{', '.join(one.experiment for one in chosen if one.why == why)} ({why})" for why in reasons)
