"""Rotations by right angles that the model respects, and others not: a grid, or a cube's axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.experiment import experiment, finding, require_any_rotation
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.rotations.designs import group

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "a grid"


@experiment(NAME, "group", "Are rotations by right angles about the axes respected?", cost=FEW)
def right_angles(subject: Subject) -> Findings:
    """Rotations of the cube that leave no axis where it is, and about each axis."""
    require_any_rotation(subject)
    after = subject.again(rotations=group("octahedral")[::4])
    for name in subject.broken:
        sentence = (
            f"{name!r} respects rotations by right angles, and not others: something lies along the axes of a cube"
        )
        advice = (
            "Look for a grid (FFT meshes, voxels, the real-space mesh of DFT, a k-point mesh), for sums over "
            "components such as |x| + |y| + |z| or max(|x|, |y|, |z|), and for activations on vector components."
        )
        yield finding(NAME, name, subject.compare(name, after[name]), sentence, advice, kind="character")
