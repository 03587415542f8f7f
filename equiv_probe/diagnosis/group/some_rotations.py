"""Rotations that are respected while others are not: by right angles, about one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding, require_any_rotation
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number
from equiv_probe.rotations.designs import group
from equiv_probe.rotations.haar import generators

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

GRID, AXIS = "a grid", "a special axis"
_ANGLES = (0.0, 0.7, 2.1, 4.4)
"""Radians; no two differ by what a symmetry axis of a molecule could be about."""


@experiment(GRID, "group", "Are rotations by right angles about the axes respected?", cost=FEW)
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
        yield finding(GRID, name, subject.compare(name, after[name]), sentence, advice, kind="character")


@experiment(AXIS, "group", "Are rotations about one of the axes x, y, z respected?", cost=12)
def one_axis(subject: Subject) -> Findings:
    """Four angles about each axis; of a grid the right ones."""
    about = {axis: _values_about(subject, place) for place, axis in enumerate("xyz")}
    for name in subject.broken:
        tried = {axis: subject.compare(name, values[name], candidates=3) for axis, values in about.items()}
        axis, best = max(tried.items(), key=lambda one: one[1].part)
        others = [one.after for label, one in tried.items() if label != axis]
        if min(others) < 3 * best.after:
            continue
        sentence = (
            f"{name!r} respects rotations about {axis} (error {subject.amount(name, best.after)}"
            f") and not about the other axes (up to {number(max(others), 2)}): {axis} is a special direction"
        )
        advice = (
            f"Look for what tells {axis} from the other axes: a local frame built with a fixed {axis} axis, spherical "
            "coordinates or harmonics with their pole there, a field, augmentation about that axis alone, rounding in "
            "one branch of an atan2."
        )
        yield finding(AXIS, name, best, sentence, advice, kind="character")


def _values_about(subject: Subject, place: int) -> dict[str, Tensor]:
    if not subject.has_exact_grids:
        about = [torch.linalg.matrix_exp(angle * generators()[place]) for angle in _ANGLES]
        return subject.again(rotations=torch.stack(about))
    kept = subject.rotations[:, place, place] > 0.5
    if int(kept.sum()) < 4:
        raise NotApplicable("the box has no rotations by right angles about each axis")
    return {name: value[kept.to(value.device)] for name, value in subject.values.items()}
