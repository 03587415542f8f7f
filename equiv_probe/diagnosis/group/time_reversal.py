"""Time reversal: all magnetic moments the other way round give the same energy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "time reversal"
_MOMENTS = re.compile(r"mag_?mom|magnetic_moment|spin", re.IGNORECASE)


@experiment(NAME, "group", "Does the output change where all magnetic moments are reversed?", cost=1, needs_error=False)
def time_reversal(subject: Subject) -> Findings:
    """Give moments with the other sign; moments among the outputs change theirs."""
    given = [n for n, v in subject.inputs.items() if _MOMENTS.search(n) and isinstance(v, torch.Tensor)]
    given = [name for name in given if bool(subject.inputs[name].any())]
    if not given:
        raise NotApplicable("no magnetic moments among the inputs")
    found = subject.at({**subject.inputs, **{name: -subject.inputs[name] for name in given}})
    for name in subject.outputs:
        own = subject.identity[name]
        change = (
            min(root(found[name] - own), root(found[name] + own)) if _MOMENTS.search(name) else root(found[name] - own)
        )
        rounding = subject.rounding(name)
        if change > ROUND_OFF_FACTOR * rounding:
            sentence = (
                f"{name!r} changes by {subject.amount(name, change)}"
                f" where all magnetic moments are reversed; without a magnetic field it must not"
            )
            advice = "Let moments enter in even powers or in products of two: |m|², m_i · m_j."
            yield Finding(NAME, name, sentence, advice, "beside", change, rounding)
