"""Translation: an output that depends on where the structure is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.estimation.controls import TRANSLATION

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "translation"


@experiment(NAME, "group", "Do the outputs depend on where the structure is?", cost=2, needs_error=False)
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
            yield Finding(NAME, output, control.sentence, advice, "beside", control.value, control.limit)
