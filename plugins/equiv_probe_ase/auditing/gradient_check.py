"""What the net torque says about the energy, and, where it says too much, whether the forces are its gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe_ase.auditing.judgement import rounding_in, varies
from equiv_probe_ase.evaluators.conservative import defect, is_gradient, words_on

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from equiv_probe_ase.auditing.subject import Subject
    from equiv_probe_ase.evaluators.conservative import Defect
    from equiv_probe_ase.structures.loading import Structure

DIRECTIONS = 4


def suspect(records: Iterable[Mapping[str, Any]]) -> str | None:
    """Key of the structure whose energy varies over rotations by the most beside what its net torque allows.

    Both are estimates from the same few rotations, and of a smooth energy the bound is an equality: more energy than
    the torque allows is a suspicion, which differences of the energy along random displacements decide, as in dynamics
    (:mod:`equiv_probe_ase.evaluators.conservative`). None where nothing is suspicious.
    """
    ratios = (
        (energy["rms"] / max(energy["torque_bound"], 1e-300), record["key"])
        for record, energy in _beyond_rounding(records)
    )
    ratio, key = max(ratios, key=lambda one: one[0], default=(0.0, None))
    return key if ratio > 1 else None


def gradient_of(subject: Subject, structure: Structure) -> dict[str, Any]:
    """How far a structure's forces are from the gradient of what they should be the gradient of, for the journal."""
    found = _defect(structure, subject)
    named = {"key": f"gradient of {structure.key}", "gradient_of": structure.key}
    if found is None:
        return named
    return {**named, "square": found.square, "floor": found.floor, "size": found.size}


def torque_notes(records: Sequence[Mapping[str, Any]], gradients: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Notes on energies that vary over rotations by more than rounding, beside what the net torque allows."""
    real = list(_beyond_rounding(records))
    if not real:
        return []
    found = gradients.get(suspect(records) or "", {})
    if "square" in found:
        defect_of = float(found["square"]), float(found["floor"]), float(found["size"])
        if not is_gradient(*defect_of, DIRECTIONS):
            record = next(one for one in records if one["key"] == found["gradient_of"])
            worst = record["quantities"]["energy"]
            more = sum(energy["rms"] > energy["torque_bound"] for _, energy in real)
            having = sum("torque_bound" in r["quantities"].get("energy", {}) for r in records)
            return [
                f"on {more} of {having} structures the energy varies over rotations by more than the net torque "
                f"allows ({worst['rms']:.3g} against {worst['torque_bound']:.3g} meV/atom on {record['name']}), and "
                f"there {words_on(*defect_of, DIRECTIONS)}"
            ]
    spread, bound = (max(energy[key] for _, energy in real) for key in ("rms", "torque_bound"))
    return [
        f"if the forces are the energy's gradient, net torque lets the energy vary by about {bound:.3g} meV/atom at "
        f"most over rotations; it varied by up to {spread:.3g}"
    ]


def _beyond_rounding(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Records and their energies, of those that vary by more than rounding and not from call to call."""
    having = ((r, r["quantities"]["energy"]) for r in records if "torque_bound" in r["quantities"].get("energy", {}))
    return ((r, e) for r, e in having if e["rms"] > 10 * rounding_in(e) and not varies([e]))


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
            generator = np.random.default_rng(structure.seed)
            found = defect(
                subject.engine, atoms, generator, energy=energy, precision=subject.precision, count=DIRECTIONS
            )
        except (Exception, SystemExit):  # some list a free energy that they never give
            continue
        if math.isfinite(found.square):
            return found
    return None
