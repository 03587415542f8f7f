"""Controls in a report: a failed one is the headline, whatever the number behind it is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, overload

from equiv_probe.estimation.controls import BATCH, FLOOR_EXPLAINED, MANY, OWN_FRAME, Control, failed_first
from equiv_probe.report.document import (
    GRAPHICAL,
    TERMINAL,
    Headline,
    Note,
    Paragraph,
    Section,
    Table,
    Verdict,
    columns,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equiv_probe.report.document import Cell, Severity

__all__ = ["Control", "below_headline", "control_section", "doubted", "gravest", "summary_of", "undecided"]

_DOUBT = "Not to be believed"
_LIMITED = {
    FLOOR_EXPLAINED: "Its floor is not to be believed",
    BATCH: "Not to be believed beyond how it was evaluated",
    OWN_FRAME: "That of the network as it is called, not of what is trained",
    MANY.format("structures"): "Its interval is not to be believed",
    MANY.format("rotations"): "Its interval is not to be believed",
}
"""Controls that leave a number standing, and what of it does not stand; of all others the number itself does not."""
_STATES: dict[str, Severity] = {"FAILED": "bad", "passed": "good", "not run": "unknown"}


@overload
def doubted(top: Headline, controls: Sequence[Control]) -> Headline: ...
@overload
def doubted(top: None, controls: Sequence[Control]) -> Headline | None: ...
def doubted(top: Headline | None, controls: Sequence[Control]) -> Headline | None:
    """The headline of a report; where a control failed, that comes first, and the number stands behind it.

    A verdict that would be good is never repeated: it is what such a control takes away.
    """
    worst = gravest(controls)
    if worst is None:
        return top
    found = top or Headline("", meaning="Nothing was measured.")
    answer = f"{_LIMITED.get(worst.name, _DOUBT)}: {worst.sentence.rstrip('.')}."
    if worst.name not in _LIMITED:
        beside = [f"By the number alone: {found.answer}"] if found.severity in {"bad", "fair"} else []
        behind = " What was measured:" if math.isfinite(found.value) else ""
        return replace(found, answer=answer + behind, severity="bad", beside=[*beside, *found.beside])
    severity: Severity = "unknown" if found.severity == "good" else found.severity
    return replace(found, answer=f"{answer} {found.answer}".rstrip(), severity=severity)


def gravest(controls: Sequence[Control]) -> Control | None:
    """The failed control that a reader must know first; None if none failed."""
    return min((one for one in controls if one.failed), key=lambda one: one.name in _LIMITED, default=None)


def below_headline(controls: Sequence[Control]) -> list[Note | Paragraph]:
    """Further controls that failed, in full, and in the terminal how many there were."""
    if not controls:
        return []
    first = gravest(controls)
    others = [Note(f"{one.name}: {one.sentence}", warning=True) for one in controls if one.failed and one is not first]
    return [*others, Paragraph(summary_of(controls), lead="Controls", on=TERMINAL)]


def control_section(controls: Sequence[Control]) -> Section:
    """All controls as a table, those that failed first; without any it is empty and left out."""
    heads = columns("control", "result", "what was found", "value", "limit")
    rows: list[list[Cell]] = [
        [one.name, Verdict(one.state, _STATES[one.state]), one.sentence, one.value, one.limit]
        for one in failed_first(controls)
    ]
    caption = "What the numbers must have passed before they are believed."
    table = Table("Which controls did it pass?", heads, rows, caption, on=GRAPHICAL)
    return Section("Which controls did it pass?", [table] if rows else [])


def summary_of(controls: Sequence[Control]) -> str:
    """How many controls failed, passed and were not run, each counted once however many outputs it was run on.

    >>> summary_of([Control("a", True, ""), Control("a", False, ""), Control("b", True, ""), Control("c", None, "")])
    '1 FAILED, 1 passed, 1 not run'
    """
    by_name: dict[str, set[str]] = {}
    for one in controls:
        by_name.setdefault(one.name, set()).add(one.state)
    worst = [next(state for state in _STATES if state in states) for states in by_name.values()]
    return ", ".join(f"{worst.count(state)} {state}" for state in _STATES if state in worst)


def undecided(controls: Sequence[Control]) -> list[str]:
    """What controls that were not run, or could not decide, leave open: a blind spot each."""
    found: dict[str, list[str]] = {}
    for one in controls:
        if one.passed is None:
            found.setdefault(one.name, []).append(one.sentence)
    verbs = ("sees ", "does ", "is ")
    whether = {name: f"whether it {name}" if name.startswith(verbs) else f"whether {name}" for name in found}
    return [f"{whether[name]} ({_some(sentences)})" for name, sentences in found.items()]


def _some(sentences: Sequence[str]) -> str:
    return "; ".join(sentences[:3]) + ("; …" if len(sentences) > 3 else "")
