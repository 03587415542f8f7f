"""Small angles that change as much as large ones: the output jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import experiment, finding, require_any_rotation
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number
from equiv_probe.rotations.haar import generators

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "a jump"
ANGLE = 1e-3
"""Radians: a smooth error is smaller by as much, and its square by a million."""


@experiment(NAME, "graph", "Do small rotations change the output as much as large ones?", cost=FEW)
def small_angles(subject: Subject) -> Findings:
    """Rotate the input as it is by a thousandth of a radian, both ways about each axis."""
    require_any_rotation(subject)
    tilts = torch.linalg.matrix_exp(ANGLE * torch.cat([generators(), -generators()]))
    after = subject.again(rotations=tilts)
    for name in subject.broken:
        smooth = subject.compare(name, after[name])
        jumped = 1 - smooth.part
        if not jumped > 1e-2:
            continue
        sentence = (
            f"{name!r} changes by {subject.amount(name, smooth.after)} under rotations by {ANGLE:g} radians, beside "
            f"{number(smooth.before, 2)} under any: it jumps where the input lies, as with ties that the last digits "
            "decide"
        )
        advice = (
            "Look for a discrete choice: neighbours at equal distances and a cap on their number, a cutoff without a "
            "smooth envelope, degenerate local frames, sorting, rounding to a grid; or for rounding inside of the "
            "model, which float64 would mend."
        )
        yield finding(
            NAME, name, type(smooth)(smooth.before, 0.0, min(1.0, jumped), True), sentence, advice, kind="character"
        )
