"""Rotations about one axis that the model respects, and about the others not: a special direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.report.formatting import number
from equiv_probe.rotations.haar import generators

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "a special axis"
_ANGLES = (0.0, 0.7, 2.1, 4.4)
"""Radians; no two differ by what a symmetry axis of a molecule could be about."""


@experiment(NAME, "group", "Are rotations about one of the axes x, y, z respected?", cost=12)
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
        yield finding(NAME, name, best, sentence, advice, kind="character")


def _values_about(subject: Subject, place: int) -> dict[str, Tensor]:
    if not subject.has_exact_grids:
        return subject.again(rotations=_about(place))
    kept = subject.rotations[:, place, place] > 0.5
    if int(kept.sum()) < 4:
        raise NotApplicable("the box has no rotations by right angles about each axis")
    return {name: value[kept.to(value.device)] for name, value in subject.values.items()}


def _about(place: int) -> Tensor:
    return torch.stack([torch.linalg.matrix_exp(angle * generators()[place]) for angle in _ANGLES])
