"""Permutation of atoms: an output that depends on the order in which they are listed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR
from equiv_probe.orbit.reordering import reordered

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "order of atoms"


@experiment(NAME, "group", "Do the outputs depend on the order of the atoms?", cost=2, needs_error=False)
def permutation(subject: Subject) -> Findings:
    """List the atoms of every structure in other orders, and bring what belongs to atoms back into the first."""
    try:
        found = reordered(subject.model, subject.seed)
    except EquivProbeError as error:
        raise NotApplicable(str(error)) from error
    for name in subject.outputs:
        change = root(found[name] - subject.identity[name])
        rounding = subject.rounding(name)
        if change > ROUND_OFF_FACTOR * rounding:
            sentence = f"{name!r} changes by {subject.amount(name, change)} if the atoms are listed in another order"
            advice = (
                "Look for positional encodings, recurrent or convolutional layers over atoms, a first atom that is "
                "special (the origin of a frame), sums in float16, and ties that the order decides."
            )
            yield Finding(NAME, name, sentence, advice, "beside", change, rounding)
