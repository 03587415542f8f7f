"""A discrete choice that the orientation decides: outputs of few values, that jump, or that follow ties."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.comparison import Compared
from equiv_probe.diagnosis.experiment import experiment, finding, places_in, require_any_rotation
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number
from equiv_probe.rotations.haar import generators

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

CHOICE, JUMP, TIES = "a discrete choice", "a jump", "ties"
MOST = 8
"""Values that a choice among signs of axes or a few neighbours makes; more are told from a smooth error by others."""
ANGLE = 1e-3
"""Radians: a smooth error is smaller by as much, and its square by a million."""
DEFORMED = 0.05
"""Displacement of each coordinate beside the structure's spread: far beyond rounding, and still the same molecule."""
DEGENERATE = 1e-3
"""Gap between eigenvalues beside the largest below which the axes of a structure are not determined."""


@experiment(CHOICE, "graph", "Are there only a few outputs over all rotations?", cost=0)
def few_values(subject: Subject) -> Findings:
    """Count outputs that differ by more than rounding."""
    require_any_rotation(subject)
    for name in subject.broken:
        values = subject.values[name].reshape(len(subject.rotations), -1)
        labels = _clusters(values, 1e-2 * subject.error(name) * values.shape[1] ** 0.5)
        count = int(labels.max()) + 1
        if not 1 < count <= min(MOST, len(values) // 3):
            continue
        within = sum(float((values[labels == k] - values[labels == k].mean(0)).square().sum()) for k in range(count))
        left = (within / values.numel()) ** 0.5
        part = 1 - (left / subject.error(name)) ** 2
        sentence = (
            f"{name!r} takes only {count} values over {len(values)} rotations: a choice is made that depends on the "
            "orientation, such as the sign of an axis, the order of atoms or which neighbours count"
        )
        advice = (
            "Look for eigenvectors and principal axes (their signs are arbitrary), sorting by a coordinate, argmax, "
            "the first neighbour of a list, and caps on the number of neighbours; average over all choices, or choose "
            "by what does not depend on the frame."
        )
        yield Finding(CHOICE, name, sentence, advice, "character", subject.error(name), left, part)


def _clusters(values: Tensor, radius: float) -> Tensor:
    """A number for each row ``(K,)``, the same for rows that lie within a radius of the first of their kind."""
    labels = torch.full((len(values),), -1)
    for count in range(len(values)):
        free = (labels < 0).nonzero().flatten()
        if not len(free):
            break
        near = (values[free] - values[free[0]]).norm(dim=1) <= radius
        labels[free[near.cpu()]] = count
    return labels


@experiment(JUMP, "graph", "Do small rotations change the output as much as large ones?", cost=FEW)
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
            JUMP, name, Compared(smooth.before, 0.0, min(1.0, jumped), True), sentence, advice, kind="character"
        )


@experiment(TIES, "graph", "Does the error go if the structure is deformed a little?", cost=FEW + 1)
def ties(subject: Subject) -> Findings:
    """Displace all atoms at random: neighbours at equal distances and equal moments of inertia are no more."""
    name_of_places = next(iter(places_in(subject)))
    points = subject.inputs[name_of_places].detach()
    generator = torch.Generator().manual_seed(subject.seed)
    noise = torch.randn(points.shape, generator=generator, dtype=torch.float64).to(points)
    spread = float(points.double().flatten(0, -2).std(0, unbiased=False).norm())
    after = subject.again(inputs={**subject.inputs, name_of_places: points + DEFORMED * spread * noise})
    gap, equal = _gap(points), _equal_distances(points)
    why = "its principal axes are not determined" if gap < DEGENERATE else "distances between its atoms are equal"
    if gap >= DEGENERATE and not equal:
        why = "something in it is exactly at a limit, such as an atom at the cutoff"
    for name in subject.broken:
        best = subject.compare(name, after[name])
        sentence = (
            f"{name!r} has {number(best.after, 2)} of its error left, of {number(best.before, 2)}, if the atoms are "
            f"displaced a little: the structure is special, and {why}"
        )
        advice = (
            "Build local frames so that they do not fail where axes are degenerate (average over them, or weight them "
            "to zero), give neighbours at equal distances equal treatment (no cap on their number, or a cap that keeps "
            "all of a shell), and use a smooth cutoff."
        )
        yield finding(TIES, name, best, sentence, advice, kind="character")


def _gap(points: Tensor) -> float:
    """The smallest gap between eigenvalues of the first structure's spread, beside the largest eigenvalue."""
    flat = points.double().reshape(-1, points.shape[-2], 3)[0]
    values = torch.linalg.eigvalsh((flat - flat.mean(0)).mT @ (flat - flat.mean(0)))
    return float(values.diff().min() / values[-1].clamp_min(1e-300))


def _equal_distances(points: Tensor) -> bool:
    flat = points.double().reshape(-1, points.shape[-2], 3)[0]
    found = torch.pdist(flat).sort().values
    return bool((found.diff() < 1e-6 * found[1:]).any())
