"""The headline of a report: whether the model is broken, by how much, and compared with what."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from equiv_probe.report.document import Headline
from equiv_probe.report.formatting import number
from equiv_probe.results.report_figures import OUTDATED
from equiv_probe.results.verdict_words import VERDICT_SENTENCES, beside_floor, errors, is_there, percent, rank, severity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe.results.measured import Measured

HARDLY = 1e-6
"""A share that single precision alone may make."""
_STAGES = ("test", "val", "train")


def headline(measured: Sequence[Measured], history: Sequence[Mapping[str, Any]] = ()) -> Headline | None:
    """The headline of a report, or of a run with its history; None if nothing was measured."""
    symmetry = [m for m in measured if math.isfinite(m.rms)]
    if symmetry:
        worst = min(symmetry, key=lambda m: (rank(m.verdict), m.name != "forces"))
        return _of_symmetry(worst)
    runs = [m for m in measured if m.labelled is not None]
    return _of_run(min(runs, key=lambda m: (_outdated(history, m), *_stage(m)))) if runs else None


def _of_symmetry(m: Measured) -> Headline:
    beside = beside_floor(m.rms, m.floor, m.nondeterminism, m.unit)
    if math.isfinite(m.relative):
        beside.append(f"{percent(m.relative)} of the size of the predicted {m.title}.")
    if m.labelled is not None:
        beside += errors(m.name, m.unit, m.labelled)
    return Headline(
        about=m.name,
        severity=severity(m.verdict),
        answer=VERDICT_SENTENCES.get(m.verdict, "It was measured, with no floor to compare it with."),
        value=m.rms,
        unit="in the output's own unit" if m.unit == "the output's" else m.unit,
        interval=m.rms_interval,
        meaning=f"√L_equiv of {m.title}: how far a prediction in one orientation lies from the average over all "
        "orientations (root mean square).",
        beside=beside,
    )


def _outdated(history: Sequence[Mapping[str, Any]], m: Measured) -> bool:
    """Whether a run went on for long after this, or its stage where that is not known, was last measured."""
    steps = [(str(entry.get("stage")), entry["step"]) for entry in history if entry.get("step") is not None]
    last = m.step if m.step is not None else dict(steps).get(m.name.partition("/")[0])
    return last is not None and last < OUTDATED * max((step for _, step in steps), default=0)


def _stage(m: Measured) -> tuple[int, bool, str]:
    stage, _, output = m.name.partition("/")
    return (_STAGES.index(stage) if stage in _STAGES else len(_STAGES), output != "loss", m.name)


def _of_run(m: Measured) -> Headline:
    known = m.labelled
    assert known is not None  # chosen so
    if not math.isfinite(known.share):
        answer = "The loss is zero: it has no share to measure."
    elif m.verdict == "round-off":
        answer = "No: what there is of it is no more than rounding."
    elif not is_there(known):
        answer = "It cannot be decided: the broken part of the loss is no more than its error bar."
    elif known.share < HARDLY:
        answer = "Hardly: next to nothing of the loss is there because the model does not respect rotation."
    else:
        answer = f"{percent(known.share)} of the loss is there only because the model does not respect rotation."
    averaged = f"; averaging the model over orientations would bring it to {number(known.mean)}"
    low, high = known.share_interval
    return Headline(
        about=m.name,
        answer=answer,
        value=100 * known.share,
        unit="% of the loss",
        interval=(100 * low, 100 * high),
        meaning=f"The share L_equiv / L_total of {m.title}.",
        beside=[
            f"The loss under random rotation is {number(known.total)}{averaged if known.mean > 0 else ''}.",
            *([f"{m.sentence}."] if m.verdict == "round-off" else []),
        ],
    )
