"""Ties and degenerate frames: an error that goes where the structure has no symmetry of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import experiment, finding, places_in
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "ties"
DEFORMED = 0.05
"""Displacement of each coordinate beside the structure's spread: far beyond rounding, and still the same molecule."""
DEGENERATE = 1e-3
"""Gap between eigenvalues beside the largest below which the axes of a structure are not determined."""


@experiment(NAME, "graph", "Does the error go if the structure is deformed a little?", cost=FEW + 1)
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
        yield finding(NAME, name, best, sentence, advice, kind="character")


def _gap(points: Tensor) -> float:
    """The smallest gap between eigenvalues of the first structure's spread, beside the largest eigenvalue."""
    flat = points.double().reshape(-1, points.shape[-2], 3)[0]
    values = torch.linalg.eigvalsh((flat - flat.mean(0)).mT @ (flat - flat.mean(0)))
    return float(values.diff().min() / values[-1].clamp_min(1e-300))


def _equal_distances(points: Tensor) -> bool:
    flat = points.double().reshape(-1, points.shape[-2], 3)[0]
    found = torch.pdist(flat).sort().values
    return bool((found.diff() < 1e-6 * found[1:]).any())
