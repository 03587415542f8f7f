"""At which angular degree the error sits, and what that is typical of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from equiv_probe.diagnosis.experiment import experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.estimation.orbit import Orbit
from equiv_probe.estimation.spectrum import spectrum
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from equiv_probe.diagnosis.subject import Subject

NAME = "angular degree"
_TYPICAL = {
    1: "one direction in the laboratory: a field, a bias on vectors, an uncentred input",
    2: "axes that are treated unequally, as scaled or mixed by a matrix that is no rotation",
    3: "a product of three components, or a special direction with a sense of hand",
    4: "the axes of a cube: a grid, a sum of fourth powers, activations on components",
}


PLAN = RotationPlan("tetrahedral", replicates=4)
"""Exact averages to the second degree, and enough pairs of replicates."""


@experiment(NAME, "spectrum", "At which angular degree does the error sit?", cost=PLAN.size)
def angular_degree(subject: Subject) -> Iterator[Finding]:
    """The angular spectrum of an orbit of its own; a single degree says what kind of error it is."""
    plan = replace(PLAN, seed=subject.seed)
    rotations = plan.rotations()
    values = subject.again(rotations=rotations.flatten(0, 1))
    kept = {name: value.reshape(*rotations.shape[:2], *value.shape[1:]) for name, value in values.items()}
    orbit = Orbit.from_values(kept, subject.identity, subject.schema, plan, rotations)
    for name in subject.broken:
        found = spectrum(orbit, 4, name)
        if not found.equiv > 0:
            continue
        shares = {degree: max(0.0, found.power[degree] / found.equiv) for degree in range(1, 5)}
        degree, share = max(shares.items(), key=lambda one: one[1])
        part = min(1.0, share)
        certain = share * found.equiv > 3 * found.stderr[degree]
        sentence = (
            f"{100 * part:.0f} % of the squared error of {name!r} is of angular degree l = {degree}, typical of "
            f"{_TYPICAL[degree]}"
        )
        left = subject.error(name) * max(0.0, 1 - part) ** 0.5
        yield Finding(NAME, name, sentence, "", "character", subject.error(name), left, part, certain)
