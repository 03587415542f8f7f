"""What the net torque says about the energy, and, where it says too much, whether the forces are its gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe_ase.auditing.judgement import rounding_in, varies
from equiv_probe_ase.evaluators.conservative import defect, is_gradient, words_on

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe_ase.auditing.subject import Subject
    from equiv_probe_ase.evaluators.conservative import Defect
    from equiv_probe_ase.structures.loading import Structure

DIRECTIONS = 4


def torque_notes(records: Sequence[Mapping[str, Any]], structures: Sequence[Structure], subject: Subject) -> list[str]:
    """Notes on energies that vary over rotations by more than rounding, beside what the net torque allows.

    Both sides are estimates from the same few rotations, and of a smooth energy the bound is an equality: more energy
    than the torque allows is a suspicion. Differences of the energy along random displacements decide it, as in
    dynamics (:mod:`equiv_probe_ase.evaluators.conservative`).
    """
    having = [(r, r["quantities"]["energy"]) for r in records if "torque_bound" in r["quantities"].get("energy", {})]
    real = [(r, e) for r, e in having if e["rms"] > 10 * rounding_in(e) and not varies([e])]
    if not real:
        return []
    spread, bound = (max(energy[key] for _, energy in real) for key in ("rms", "torque_bound"))
    record, worst = max(real, key=lambda one: one[1]["rms"] / max(one[1]["torque_bound"], 1e-300))
    if worst["rms"] > worst["torque_bound"]:
        atoms = next(one for one in structures if one.key == record["key"])
        found = _defect(atoms, subject)
        if found is not None and not is_gradient(found.square, found.floor, found.size, DIRECTIONS):
            more = sum(energy["rms"] > energy["torque_bound"] for _, energy in real)
            return [
                f"on {more} of {len(having)} structures the energy varies over rotations by more than the net torque "
                f"allows ({worst['rms']:.3g} against {worst['torque_bound']:.3g} meV/atom on {record['name']}), and "
                f"there {words_on(found.square, found.floor, found.size, DIRECTIONS)}"
            ]
    return [
        f"if the forces are the energy's gradient, net torque lets the energy vary by about {bound:.3g} meV/atom at "
        f"most over rotations; it varied by up to {spread:.3g}"
    ]


def _defect(structure: Structure, subject: Subject) -> Defect | None:
    """How far the forces are from the gradient of what they should be the gradient of; None if nothing can be had."""
    atoms = structure.atoms.copy()
    atoms.set_constraint()
    if "momenta" in atoms.arrays:
        del atoms.arrays["momenta"]
    for energy in ("free_energy", "energy"):
        if energy not in subject.calculator.implemented_properties:
            continue
        try:
            generator = np.random.default_rng(structure.index)
            found = defect(
                subject.engine, atoms, generator, energy=energy, precision=subject.precision, count=DIRECTIONS
            )
        except (Exception, SystemExit):  # some list a free energy that they never give
            continue
        if math.isfinite(found.square):
            return found
    return None
