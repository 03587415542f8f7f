"""The answer before everything else: one sentence, one number with its interval, and what it is beside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from equiv_probe.report_table import number

if TYPE_CHECKING:
    from equiv_probe.report import Labelled, Measured, Report

SEVERITY = ("broken", "above round-off", "unknown", "", "non-deterministic", "round-off")
"""Verdicts, the worst first: a page's headline is about the quantity that is broken most."""
_ANSWERS = {
    "broken": "Yes: the model does not respect rotation.",
    "above round-off": "Slightly: there is more than rounding.",
    "round-off": "No: it respects rotation, down to rounding.",
    "non-deterministic": "Not that one could tell: repeating the same input varies as much.",
}
_STAGES = ("test", "val", "train")


@dataclass(frozen=True)
class Headline:
    """What the top of the page says.

    Attributes:
        about: name of the quantity.
        kind: the verdict's, for the colour.
        answer: whether it is broken.
        value: the number as text.
        unit: of it.
        span: its 95 % interval as text, or empty.
        meaning: what the number is.
        beside: comparisons, one sentence each.
    """

    about: str
    kind: str
    answer: str
    value: str
    unit: str
    span: str
    meaning: str
    beside: list[str] = field(default_factory=list)


def headline(report: Report) -> Headline | None:
    """The headline of a report; None if nothing was measured."""
    symmetry = [m for m in report.measured if math.isfinite(m.rms)]
    if symmetry:
        worst = min(symmetry, key=lambda m: (SEVERITY.index(m.verdict), m.name != "forces"))
        return _of_symmetry(worst)
    runs = [m for m in report.measured if m.labelled is not None]
    return _of_run(min(runs, key=lambda m: (_outdated(report, m), *_stage(m)))) if runs else None


def _of_symmetry(m: Measured) -> Headline:
    floor = m.highest_floor
    beside = []
    if floor > 0:
        beside.append(f"{_times(m.rms / floor)} times the floor of {number(floor)} {m.unit} that rounding leaves.")
    if math.isfinite(m.relative):
        beside.append(f"{_percent(m.relative)} of the size of the {m.name} themselves.")
    if m.labelled is not None:
        beside += _errors(m.name, m.unit, m.labelled)
    return Headline(
        about=m.name,
        kind=m.verdict or "unknown",
        answer=_ANSWERS.get(m.verdict, "It was measured, with no floor to compare it with."),
        value=number(m.rms),
        unit=m.unit,
        span=f"{number(m.rms_interval[0])} to {number(m.rms_interval[1])}" if math.isfinite(m.rms_interval[0]) else "",
        meaning=f"√L_equiv: how far the {m.name} in one orientation lie from their average over all orientations "
        "(root mean square).",
        beside=beside,
    )


def _errors(name: str, unit: str, known: Labelled) -> list[str]:
    """The model's error against the reference, with and without the broken symmetry, where it is a squared error."""
    if known.loss != "mse" or not (known.total > 0 and known.mean > 0):
        return [f"{_percent(known.share)} of the loss against the reference is there only because of it."]
    total, mean = math.sqrt(known.total), math.sqrt(known.mean)
    return [
        f"The model's error against the reference {name} is {number(total)} {unit}. Averaged over orientations it "
        f"would be {number(mean)}: {_percent(known.share)} of the squared error is broken symmetry alone."
    ]


def _outdated(report: Report, m: Measured) -> bool:
    """Whether a run went on for long after this stage was last measured."""
    last = {str(entry.get("stage")): entry["step"] for entry in report.history if entry.get("step") is not None}
    stage = m.name.partition("/")[0]
    return stage in last and last[stage] < 0.8 * max(last.values())


def _stage(m: Measured) -> tuple[int, bool, str]:
    stage, _, output = m.name.partition("/")
    return (_STAGES.index(stage) if stage in _STAGES else len(_STAGES), output != "loss", m.name)


def _of_run(m: Measured) -> Headline:
    known = m.labelled
    assert known is not None  # chosen so
    low, high = known.share_interval
    return Headline(
        about=m.name,
        kind="unknown",
        answer=f"{_percent(known.share)} of the loss is there only because the model does not respect rotation.",
        value=number(100 * known.share),
        unit="% of the loss",
        span=f"{number(100 * low)} to {number(100 * high)}" if math.isfinite(low) else "",
        meaning=f"The share L_equiv / L_total of {m.name}.",
        beside=[
            f"The loss under random rotation is {number(known.total)}; averaging the model over orientations would "
            f"bring it to {number(known.mean)}."
        ],
    )


def _times(ratio: float) -> str:
    return number(ratio, 2) if ratio < 1e4 else f"{ratio:.0e}".replace("e+0", "e").replace("e+", "e")


def _percent(part: float) -> str:
    return "less than 1e-6 %" if abs(part) < 1e-8 else f"{number(100 * part)} %"
