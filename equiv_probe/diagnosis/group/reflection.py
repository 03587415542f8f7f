"""Reflections: a sense of hand, or an axial vector declared as a polar one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR
from equiv_probe.report.formatting import number
from equiv_probe.representations.representation import CartesianTensor
from equiv_probe.schema.usual_names import usual

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

CLEAR = 3.0
"""Times the error under proper rotations, of which six and twenty-four are compared."""
PARITY, HAND = "axial or polar", "handedness"


@experiment(HAND, "group", "Do reflections change what proper rotations do not?", cost=FEW, needs_error=False)
def reflection(subject: Subject) -> Findings:
    """Improper rotations, beside the proper ones; a wrong parity is told from a sense of hand."""
    improper = -subject.rotations[:FEW]
    found = subject.again(rotations=improper)
    for name in subject.outputs:
        rep, proper = subject.schema.outputs[name], subject.values[name].mean(0)
        change, own = root(found[name].mean(0) - proper), subject.error(name)
        rounding = subject.rounding(name)
        if not change > max(ROUND_OFF_FACTOR * rounding, CLEAR * own):
            continue
        other = _other_parity(rep)
        if other is not None:
            center = subject.orbit.centers.get(name)
            back = other.rotate_back(rep.rotate(found[name], improper, center), improper, center).mean(0)
            if root(back - proper) < change / 10:
                yield _of_wrong_parity(subject, name, other, change, back - proper)
                continue
        sentence = (
            f"{name!r} changes by {subject.amount(name, change)}"
            f" under reflection, beside {number(own, 2)} under proper rotations: the model has a sense of hand"
        )
        advice = (
            "If mirror images should give the same, look for cross products, triple products, signed angles and "
            "determinants (a volume is |det|, and a reflected cell has a negative one), and use irreps of O(3) instead "
            "of SO(3). If the model is meant for SO(3) alone, this is no defect."
        )
        yield Finding(HAND, name, sentence, advice, "beside", change, rounding)


def _of_wrong_parity(subject: Subject, name: str, other: CartesianTensor, change: float, left: Tensor) -> Finding:
    declared = subject.schema.outputs[name]
    if usual(name, tuple(left.shape)) == declared:
        sentence = (
            f"{name!r} has the wrong sign where a structure is reflected: by its name it is ep.{declared}, and it "
            f"behaves as ep.{other}"
        )
        advice = (
            "Look for a determinant where a volume is meant, as of a cell (a reflected one has a negative determinant, "
            "its volume is |det|), and for an odd number of cross products."
        )
    else:
        sentence = f"{name!r} is declared as ep.{declared}, but under reflection it behaves as ep.{other}"
        advice = f'If that is what it is, declare outputs={{"{name}": ep.{other}}}; otherwise count its cross products.'
    return Finding(PARITY, name, sentence, advice, "beside", change, root(left))


def _other_parity(rep: object) -> CartesianTensor | None:
    """The same with the other sign under reflection; None of what has no such sibling."""
    return replace(rep, pseudo=not rep.pseudo) if type(rep) is CartesianTensor else None
