"""Forces beside the slope of the energy, of a calculator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.diagnosis.physics.gradient import NAME
from equiv_probe_ase.diagnosis.atoms_subject import atoms_of
from equiv_probe_ase.evaluators.conservative import defect, is_gradient, words_on

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

DIRECTIONS = 4


@experiment(NAME, "physics", "Are the forces the gradient of the energy?", cost=4 * DIRECTIONS + 1, needs_error=False)
def forces_and_energy(subject: Subject) -> Findings:
    """As the audit and the dynamics do it: five-point differences along random directions."""
    model = atoms_of(subject)
    implemented = getattr(model.engine.evaluator, "calculator", None)
    names = [n for n in ("free_energy", "energy") if n in getattr(implemented, "implemented_properties", ["energy"])]
    if "forces" not in subject.outputs:
        raise NotApplicable("no forces among the outputs")
    bare = model.atoms.copy()
    bare.set_constraint()
    bare.arrays.pop("momenta", None)
    for energy in names:
        try:
            generator = np.random.default_rng(subject.seed)
            found = defect(model.engine, bare, generator, energy=energy, precision=model.precision, count=DIRECTIONS)
        except (Exception, SystemExit):  # some list a free energy that they never give
            continue
        if is_gradient(found.square, found.floor, found.size, DIRECTIONS):
            return
        advice = (
            "Look for a force head of its own, a detach() between energy and positions, a wrong sign or unit, and "
            "neighbours that appear at the cutoff. Molecular dynamics will not conserve the energy."
        )
        off, noise = (1e3 * math.sqrt(value) for value in (found.square, found.floor))
        words = words_on(found.square, found.floor, found.size, DIRECTIONS)
        yield Finding(NAME, "forces", words, advice, "beside", off, noise)
        return
    raise NotApplicable("no energy beside the forces")
