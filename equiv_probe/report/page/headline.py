"""The answer before everything else: one sentence, one number with its interval, and what it is beside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scipy.special import stdtrit

from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from equiv_probe.results.report import Labelled, Measured, Report

SEVERITY = ("broken", "above round-off", "unknown", "", "non-deterministic", "round-off")
"""Verdicts, the worst first: a page's headline is about the quantity that is broken most."""
ANSWERS = {
    "broken": "Yes: the model does not respect rotation.",
    "above round-off": "Slightly: there is more than rounding.",
    "round-off": "No: it respects rotation, down to rounding.",
    "non-deterministic": "Not that one could tell: repeating the same input varies as much.",
}
HARDLY = 1e-6
"""A share that single precision alone may make."""
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
        question: that it answers.
    """

    about: str
    kind: str
    answer: str
    value: str
    unit: str
    span: str
    meaning: str
    beside: list[str] = field(default_factory=list)
    question: str = "Is it broken?"


def headline(report: Report) -> Headline | None:
    """The headline of a report; None if nothing was measured."""
    symmetry = [m for m in report.measured if math.isfinite(m.rms)]
    if symmetry:
        worst = min(symmetry, key=lambda m: (_severity(m), m.name != "forces"))
        return _of_symmetry(worst)
    runs = [m for m in report.measured if m.labelled is not None]
    return _of_run(min(runs, key=lambda m: (_outdated(report, m), *_stage(m)))) if runs else None


def _severity(m: Measured) -> int:
    return SEVERITY.index(m.verdict if m.verdict in SEVERITY else "unknown")


def _of_symmetry(m: Measured) -> Headline:
    beside = beside_floor(m.rms, m.floor, m.nondeterminism, m.unit)
    if math.isfinite(m.relative):
        beside.append(f"{percent(m.relative)} of the size of the predicted {m.name}.")
    if m.labelled is not None:
        beside += errors(m.name, m.unit, m.labelled)
    return Headline(
        about=m.name,
        kind=m.verdict if m.verdict in SEVERITY and m.verdict else "unknown",
        answer=ANSWERS.get(m.verdict, "It was measured, with no floor to compare it with."),
        value=number(m.rms),
        unit="in the output's own unit" if m.unit == "the output's" else m.unit,
        span=f"{number(m.rms_interval[0])} to {number(m.rms_interval[1])}" if math.isfinite(m.rms_interval[0]) else "",
        meaning=f"√L_equiv of {m.name}: how far a prediction in one orientation lies from the average over all "
        "orientations (root mean square).",
        beside=beside,
    )


def beside_floor(rms: float, floor: float, nondeterminism: float, unit: str) -> list[str]:
    """How many times the higher of the two floors a root error is, in a sentence; none if there is no floor."""
    highest = max((one for one in (floor, nondeterminism) if math.isfinite(one)), default=0.0)
    if not highest > 0:
        return []
    why = "the same input, evaluated again, makes" if highest == nondeterminism > floor else "rounding leaves"
    return [f"{times(rms / highest)} times the floor of {f'{number(highest)} {unit}'.rstrip()} that {why}."]


def errors(name: str, unit: str, known: Labelled) -> list[str]:
    """The model's error against the reference, with and without the broken symmetry, where it is a squared error."""
    if not math.isfinite(known.share):  # the loss is zero
        return [
            f"Its {known.loss} loss against the reference {name} is {number(known.total)}: there is no share of it."
        ]
    low, high = known.share_interval
    span = f" ({number(100 * low)} to {number(100 * high)} %)" if math.isfinite(low) else ""
    if known.loss != "mse" or not (known.total > 0 and known.mean > 0):
        if not _is_there(known):
            return [f"No part of the {known.loss} loss against the reference can be told to be there because of it."]
        return [f"{percent(known.share)}{span} of the {known.loss} loss is there only because of it."]
    total, mean = math.sqrt(known.total), math.sqrt(known.mean)
    error = f"The model's error against the reference {name} is {f'{number(total)} {unit}'.rstrip()}."
    if not _is_there(known):
        return [f"{error} No part of that can be told to be broken symmetry."]
    return [
        f"{error} Averaged over orientations it would be {number(mean)}: {percent(known.share)}{span} of the squared "
        "error is broken symmetry alone."
    ]


def _is_there(known: Labelled) -> bool:
    """Whether a share is more than chance: more than its error bar, two-sided at 5 %."""
    reach = float(stdtrit(max(known.structures - 1, 1), 0.975)) if known.structures > 1 else 2.0
    return known.share > 0 and not known.share <= reach * known.share_stderr


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
    if not math.isfinite(known.share):
        answer = "The loss is zero: there is no share of it to measure."
    elif not _is_there(known):
        answer = "Not that one could tell: the broken part of the loss is no more than its error bar."
    elif known.share < HARDLY:
        answer = "Hardly: next to nothing of the loss is there because the model does not respect rotation."
    else:
        answer = f"{percent(known.share)} of the loss is there only because the model does not respect rotation."
    averaged = f"; averaging the model over orientations would bring it to {number(known.mean)}"
    return Headline(
        about=m.name,
        kind="unknown",
        answer=answer,
        value=number(100 * known.share),
        unit="% of the loss",
        span=f"{number(100 * low)} to {number(100 * high)}" if math.isfinite(low) else "",
        meaning=f"The share L_equiv / L_total of {m.name}.",
        beside=[f"The loss under random rotation is {number(known.total)}{averaged if known.mean > 0 else ''}."],
    )


def times(ratio: float) -> str:
    """How many times, without needless digits."""
    return number(ratio, 2) if ratio < 1e4 else f"{ratio:.0e}".replace("e+0", "e").replace("e+", "e")


def percent(part: float) -> str:
    """A part of one in percent."""
    return "less than 1e-6 %" if abs(part) < 1e-8 else f"{number(100 * part)} %"
