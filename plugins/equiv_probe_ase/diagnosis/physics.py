"""Forces and stress of a calculator beside the slopes of its energy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.diagnosis.forces import SLOPE as FORCES
from equiv_probe.report.formatting import number
from equiv_probe_ase.diagnosis.atoms_subject import atoms_of
from equiv_probe_ase.evaluators.conservative import defect, is_gradient, step_of, words_on

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

    Matrix = NDArray[np.float64]

DIRECTIONS = 4
STRESS = "stress and energy"
MUCH = 0.02
"""Of the stress, that the slope may be off by."""
_PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
GPA = 160.21766
"""One eV/Å³."""


@experiment(FORCES, "physics", "Are the forces the gradient of the energy?", cost=4 * DIRECTIONS + 1, needs_error=False)
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
        yield Finding(FORCES, "forces", words, advice, "beside", off, noise)
        return
    raise NotApplicable("no energy beside the forces")


@experiment(STRESS, "physics", "Is the stress the energy's slope under strain?", cost=24, needs_error=False)
def stress_and_strain(subject: Subject) -> Findings:
    """Central differences under six symmetric strains, with two steps: what they disagree by is not counted."""
    model = atoms_of(subject)
    if not {"energy", "stress"} <= set(subject.outputs):
        raise NotApplicable("no energy beside a stress")
    step = step_of(model.precision)
    fine, coarse = (_slopes(subject, size) for size in (step, 2 * step))
    slope, doubt = (4 * fine - coarse) / 3, float(np.sqrt(np.mean((fine - coarse) ** 2)))
    stress = subject.identity["stress"].numpy()
    defect = float(np.sqrt(np.mean((stress - slope) ** 2)))
    size = max(float(np.sqrt(np.mean(one**2))) for one in (stress, slope))
    if not defect > max(MUCH * size, 3 * doubt):
        return
    sentence = (
        f"the stress is not the energy's slope under strain: they differ by {subject.amount('stress', defect)} per "
        f"component, beside {number(size, 2)}"
    )
    known = _named(stress, slope)
    if known:
        sentence += f"; {known}"
    advice = (
        "ASE's stress is (1/V) dE/dε in eV/Å³, negative of a compressed crystal, in the order xx yy zz yz xz xy. Check "
        "sign, volume, unit and order; of a head of its own, the stress was not derived from the energy."
    )
    yield Finding(STRESS, "stress", sentence, advice, "beside", defect, doubt)


def _slopes(subject: Subject, step: float) -> Matrix:
    """``(1/V) dE/dε`` in the stress's unit, ``(3, 3)``."""
    model = atoms_of(subject)
    atoms = model.atoms
    strained = [_strained(atoms, i, j, sign * step) for i, j in _PAIRS for sign in (1, -1)]
    energies = np.array([float(one["energy"]) for one in model.of(strained)]).reshape(6, 2) * len(atoms)
    found = np.zeros((3, 3))
    for (i, j), (ahead, behind) in zip(_PAIRS, energies, strict=True):
        found[i, j] = found[j, i] = (ahead - behind) / (2 * step) / atoms.get_volume()
    return found


def _strained(atoms: Atoms, i: int, j: int, size: float) -> Atoms:
    strain = np.zeros((3, 3))
    strain[i, j] += size / 2
    strain[j, i] += size / 2
    copy = atoms.copy()
    copy.set_constraint()
    copy.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return copy


def _named(stress: Matrix, slope: Matrix) -> str:
    """What would make them agree, where a usual mistake does."""
    factor = float((stress * slope).sum() / (slope**2).sum())
    if np.sqrt(np.mean((stress - factor * slope) ** 2)) > MUCH * np.sqrt(np.mean(stress**2)):
        return ""
    usual = {-1.0: "it has the other sign", GPA: "it is in GPa", -GPA: "it is in GPa, with the other sign"}
    for value, words in usual.items():
        if abs(factor / value - 1) < MUCH:
            return words
    return f"it is {factor:.4g} times the slope"
