"""Symmetries beside rotation that outputs must have: translation, the order of atoms, time reversal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.controls import TRANSLATION
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR
from equiv_probe.orbit.reordering import reordered

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

TRANSLATED, REORDERED, REVERSED = "translation", "order of atoms", "time reversal"
_MOMENTS = re.compile(r"mag_?mom|magnetic_moment|spin", re.IGNORECASE)


@experiment(TRANSLATED, "group", "Do the outputs depend on where the structure is?", cost=2, needs_error=False)
def translation(subject: Subject) -> Findings:
    """The control of every measurement: all structures moved as a whole."""
    asked = [control for control in subject.controls if control.name == TRANSLATION]
    if not asked:
        raise NotApplicable("there are no places among the inputs that could be moved")
    unknown = [control.sentence for control in asked if control.passed is None]
    if len(unknown) == len(asked):
        raise NotApplicable(unknown[0])
    advice = (
        "Use differences of positions, or subtract the centroid of each structure first; of a crystal, check that the "
        "images of neighbours are counted from the same cell as the positions."
    )
    for control in asked:
        if control.failed:
            output = control.sentence.partition(":")[0]
            yield Finding(TRANSLATED, output, control.sentence, advice, "beside", control.value, control.limit)


@experiment(REORDERED, "group", "Do the outputs depend on the order of the atoms?", cost=2, needs_error=False)
def permutation(subject: Subject) -> Findings:
    """List the atoms of every structure in other orders, and bring what belongs to atoms back into the first."""
    try:
        found = reordered(subject.model, subject.seed)
    except EquivProbeError as error:
        raise NotApplicable(str(error)) from error
    for name, change, rounding in subject.changes(found, ROUND_OFF_FACTOR):
        sentence = f"{name!r} changes by {subject.amount(name, change)} if the atoms are listed in another order"
        advice = (
            "Look for positional encodings, recurrent or convolutional layers over atoms, a first atom that is "
            "special (the origin of a frame), sums in float16, and ties that the order decides."
        )
        yield Finding(REORDERED, name, sentence, advice, "beside", change, rounding)


@experiment(
    REVERSED, "group", "Does the output change where all magnetic moments are reversed?", cost=1, needs_error=False
)
def time_reversal(subject: Subject) -> Findings:
    """Give moments with the other sign; moments among the outputs change theirs."""
    given = [n for n, v in subject.inputs.items() if _MOMENTS.search(n) and isinstance(v, torch.Tensor)]
    given = [name for name in given if bool(subject.inputs[name].any())]
    if not given:
        raise NotApplicable("no magnetic moments among the inputs")
    found = subject.at({**subject.inputs, **{name: -subject.inputs[name] for name in given}})
    for name in filter(_MOMENTS.search, subject.outputs):
        found[name] = min(found[name], -found[name], key=lambda one: root(one - subject.identity[name]))
    for name, change, rounding in subject.changes(found, ROUND_OFF_FACTOR):
        sentence = (
            f"{name!r} changes by {subject.amount(name, change)}"
            f" where all magnetic moments are reversed; without a magnetic field it must not"
        )
        advice = "Let moments enter in even powers or in products of two: |m|², m_i · m_j."
        yield Finding(REVERSED, name, sentence, advice, "beside", change, rounding)
