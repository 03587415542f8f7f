"""Usual mistakes with an output: the second opinion's candidates, each an experiment that costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.experiment import Experiment, finding
from equiv_probe.diagnosis.finding import PARTLY
from equiv_probe.estimation.second_opinion import explanations

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

_MISTAKES = {
    "inverse": (
        "rotated by the inverse",
        "Does it rotate by the inverse of what its input rotates by?",
        "Row vectors are rotated by v @ R.T, column vectors by R @ v: look for a transpose too many or too few where a "
        "frame or rotation matrix is applied, such as R where it should be R.T.",
    ),
    "twice": (
        "rotated twice",
        "Is it rotated once more than it should be?",
        "Look for a frame that is applied to what is already in laboratory coordinates.",
    ),
    "own frame": (
        "own frame",
        "Does it not rotate at all?",
        "Rotate the output back from the frame that the model works in (the standardised cell, the principal axes, the "
        "local frame): v_lab = R @ v_own. What a fixed external field does to charges does not rotate either.",
    ),
    "constant vector": (
        "constant laboratory vector",
        "Is one fixed vector added in every orientation?",
        "Look for a bias on vector channels (nn.Linear(..., bias=True), an additive constant, a mean of the training "
        "forces): equivariant linear layers have none for l > 0.",
    ),
    "centre": (
        "another centre",
        "Does it rotate about another point than its input?",
        "Centre the input on the point that was found, or return displacements and not places.",
    ),
    "representation": (
        "another representation",
        "Is it another quantity than it was declared to be?",
        "If that is what it is, declare it so in the schema; otherwise the head gives the wrong kind of quantity.",
    ),
}


_ADDED = {"constant vector", "centre"}
"""What may be a part of the error beside others."""


def _experiment(kind: str) -> Experiment:
    name, question, advice = _MISTAKES[kind]

    def run(subject: Subject) -> Findings:
        for output in subject.broken:
            tried = {one.sentence: one.values for one in explanations(subject.orbit, output) if one.kind == kind}
            if not tried:
                continue
            sentence, best = subject.best(output, tried)
            if kind == "constant vector" and best.part > PARTLY and subject.depends_on_place(output):
                continue  # as what is not counted from the centroid does: the structure's place is the constant
            yield finding(name, output, best, sentence, advice, exact=kind not in _ADDED)

    return Experiment(name, "conventions", question, 0, run)


*USUAL_MISTAKES, another_representation = map(_experiment, _MISTAKES)
