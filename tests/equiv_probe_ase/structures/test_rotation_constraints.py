"""Constraints rotate with the atoms: they act on a rotated structure as they do on the structure itself, rotated.

That is checked by what they do to forces, steps and momenta, not by what they store. Tolerance: float64 rounding of
numbers below 10, and 1e-6 for the bond constraints, which ASE solves by iteration to 1e-7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from ase import Atoms, constraints
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from equiv_probe.rotations.haar import haar
from equiv_probe_ase.structures.rotation import Rotator, rotated_constraints

if TYPE_CHECKING:
    from collections.abc import Callable

Made = list[constraints.FixConstraint]


@dataclass(frozen=True)
class Case:
    """Constraints to put on ethanol; ``lab``: they name a direction, or a place, in the laboratory."""

    make: Callable[[Atoms], Made]
    lab: bool = True
    tolerance: float = 1e-11
    compare: tuple[str, ...] = ("forces", "momenta", "positions", "energy")


AXIS = [0.3, -0.5, 0.8]
MODE = np.random.default_rng(3).normal(size=(9, 3))
CASES = {
    "FixAtoms": Case(lambda a: [constraints.FixAtoms([0, 2])], lab=False),
    "FixedPlane": Case(lambda a: [constraints.FixedPlane([1, 3], AXIS)]),
    "FixedLine": Case(lambda a: [constraints.FixedLine([1, 3], AXIS)]),
    "FixCartesian-x": Case(lambda a: [constraints.FixCartesian([2, 4], (True, False, False))]),
    "FixCartesian-xz": Case(lambda a: [constraints.FixCartesian([2, 4], (True, False, True))]),
    "FixCartesian-xyz": Case(lambda a: [constraints.FixCartesian([2, 4], (True, True, True))], lab=False),
    # ASE's FixScaled takes components of forces with the transposed cell, which depends on the frame unless the cell is
    # symmetric: only what it does to positions can be the same.
    "FixScaled": Case(
        lambda a: [constraints.FixScaled([0, 5], (True, False, False))], lab=False, compare=("positions",)
    ),
    "FixedMode": Case(lambda a: [constraints.FixedMode(MODE)]),
    "Hookean-pair": Case(lambda a: [constraints.Hookean(0, 1, k=5.0, rt=1.0)], lab=False),
    "Hookean-point": Case(lambda a: [constraints.Hookean(0, [5.0, 0.0, 1.0], k=5.0, rt=0.2)]),
    "Hookean-plane": Case(lambda a: [constraints.Hookean(0, (0.2, 0.5, 1.0, -0.5), k=5.0)]),
    "FixBondLengths": Case(lambda a: [constraints.FixBondLengths([[0, 1], [1, 2]])], lab=False, tolerance=1e-6),
    "FixInternals": Case(
        lambda a: [constraints.FixInternals(bonds=[[None, [0, 1]]], angles_deg=[[None, [0, 1, 2]]])],
        lab=False,
        tolerance=1e-6,
    ),
    "FixCom": Case(lambda a: [constraints.FixCom()], lab=False),
    "ExternalForce": Case(lambda a: [constraints.ExternalForce(0, 1, 0.7)], lab=False),
    "MirrorForce": Case(lambda a: [constraints.MirrorForce(0, 1, max_dist=2.5, min_dist=0.5)], lab=False),
    "several": Case(lambda a: [constraints.FixAtoms([0]), constraints.FixedPlane([1], AXIS)]),
}


def ethanol(made: Callable[[Atoms], Made]) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.positions += np.random.default_rng(0).normal(scale=0.05, size=(9, 3)) + np.array([2.0, -1.0, 3.0])
    atoms.set_cell([[14.0, 0.3, 0.0], [-1.0, 15.0, 0.5], [0.2, 0.4, 16.0]])
    atoms.pbc = True
    atoms.set_constraint(made(atoms))
    atoms.calc = EMT()
    return atoms


def acted_on(atoms: Atoms, vectors: np.ndarray, points: np.ndarray) -> dict[str, np.ndarray]:
    """What the constraints of a structure make of vectors (as forces and as momenta) and of new positions."""
    forces, momenta, moved = vectors.copy(), vectors.copy(), points.copy()
    energy = 0.0
    for constraint in atoms.constraints:
        constraint.adjust_positions(atoms, moved)
    for constraint in atoms.constraints:
        constraint.adjust_forces(atoms, forces)
        constraint.adjust_momenta(atoms, momenta)
        if hasattr(constraint, "adjust_potential_energy"):
            energy += constraint.adjust_potential_energy(atoms)
    return {"forces": forces, "momenta": momenta, "positions": moved, "energy": np.array(energy)}


@pytest.mark.parametrize("sign", [1, -1], ids=["proper", "improper"])
@pytest.mark.parametrize("name", CASES)
def test_a_rotated_constraint_acts_as_the_constraint_rotated(name: str, sign: int) -> None:
    case = CASES[name]
    rng = np.random.default_rng(7)
    vectors, step = rng.normal(size=(9, 3)), 0.05 * rng.normal(size=(9, 3))
    g = sign * haar(1, torch.Generator().manual_seed(2))[0].numpy()
    atoms = ethanol(case.make)
    rotated = Rotator(atoms).copies(torch.from_numpy(g)[None])[0]
    rotated.calc = EMT()  # as the structure itself: MirrorForce asks it
    centre = atoms.positions.mean(0)

    expected = acted_on(atoms, vectors, atoms.positions + step)
    found = acted_on(rotated, vectors @ g.T, rotated.positions + step @ g.T)
    rotated_back = {
        "forces": found["forces"] @ g,
        "momenta": found["momenta"] @ g,
        "positions": (found["positions"] - centre) @ g + centre,
        "energy": found["energy"],
    }
    for what, value in ((what, expected[what]) for what in case.compare):
        np.testing.assert_allclose(rotated_back[what], value, rtol=0, atol=case.tolerance, err_msg=f"{name}: {what}")

    # The negative control: left as they were, constraints that name a direction do something else.
    rotated.set_constraint(case.make(rotated))
    wrong = acted_on(rotated, vectors @ g.T, rotated.positions + step @ g.T)
    off = np.abs((wrong["positions"] - centre) @ g + centre - expected["positions"]).max()
    if "forces" in case.compare:
        off = max(off, np.abs(wrong["forces"] @ g - expected["forces"]).max())
    assert (off > 1e-3) == case.lab


def test_rotating_keeps_the_number_of_fixed_degrees_of_freedom() -> None:
    """Temperatures are computed from it."""
    g = haar(1, torch.Generator().manual_seed(2))
    for name, case in CASES.items():
        if name.startswith(("Fix", "several")):
            atoms = ethanol(case.make)
            (rotated,) = Rotator(atoms).copies(g)
            removed = [sum(c.get_removed_dof(one) for c in one.constraints) for one in (atoms, rotated)]
            assert removed[0] == removed[1] > 0, name


def test_constraints_do_act_on_these_vectors() -> None:
    """Or the test above would pass for constraints that do nothing (FixCom acts on momenta and positions only)."""
    vectors = np.random.default_rng(7).normal(size=(9, 3))
    for name, case in CASES.items():
        atoms = ethanol(case.make)
        found = acted_on(atoms, vectors, atoms.positions + 0.05 * vectors)
        unchanged = {"forces": vectors, "momenta": vectors, "positions": atoms.positions + 0.05 * vectors}
        assert max(np.abs(found[what] - value).max() for what, value in unchanged.items()) > 1e-3, name


def test_internals_that_were_used_before_follow_the_rotated_cell() -> None:
    """FixInternals remembers the cell of its first use: a bond across the boundary would be lost."""
    g = haar(1, torch.Generator().manual_seed(2))[0].numpy()
    places = [[0.2, 0.0, 0.0], [5.8, 0.0, 0.0], [3.0, 3.0, 3.0], [1.0, 5.0, 5.0], [4.0, 1.0, 6.0]]
    atoms = Atoms("Cu5", places, cell=[6.0, 7.0, 8.0], pbc=True)
    atoms.set_constraint(constraints.FixInternals(bonds=[[None, [0, 1]]], mic=True))
    step = 0.1 * np.random.default_rng(0).normal(size=(5, 3))
    expected = acted_on(atoms, step, atoms.positions + step)
    rotated = Rotator(atoms).copies(torch.from_numpy(g)[None])[0]
    found = acted_on(rotated, step @ g.T, rotated.positions + step @ g.T)
    np.testing.assert_allclose(found["forces"] @ g, expected["forces"], atol=1e-9)


def test_a_space_group_rotates_with_its_crystal() -> None:
    """ASE's FixSymmetry refuses large changes of the cell; a rotation of everything is none."""
    pytest.importorskip("spglib", reason="spglib, which FixSymmetry needs, is not installed")
    g = haar(1, torch.Generator().manual_seed(2))[0].numpy()
    crystal = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    crystal.set_constraint(constraints.FixSymmetry(crystal))
    forces = np.random.default_rng(0).normal(size=(8, 3))
    expected = acted_on(crystal, forces, crystal.positions)
    rotated = Rotator(crystal).copies(torch.from_numpy(g)[None])[0]
    np.testing.assert_allclose(rotated.cell.array, crystal.cell.array @ g.T, atol=1e-12)
    found = acted_on(rotated, forces @ g.T, rotated.positions)
    np.testing.assert_allclose(found["forces"] @ g, expected["forces"], atol=1e-9)  # spglib's tolerance is 1e-2


class Unheard(constraints.FixConstraint):
    """A constraint of somebody else's."""

    def adjust_positions(self, atoms: Atoms, new: np.ndarray) -> None:
        pass

    def adjust_forces(self, atoms: Atoms, forces: np.ndarray) -> None:
        pass


def test_an_unknown_constraint_is_named_and_left_out() -> None:
    fixed = constraints.FixAtoms([0])
    kept, unknown = rotated_constraints([fixed, Unheard()], np.eye(3), np.zeros(3))
    assert [type(one).__name__ for one in kept] == ["FixAtoms"]
    assert unknown == ["Unheard"]


def test_a_copys_constraints_are_its_own() -> None:
    atoms = ethanol(lambda a: [constraints.FixAtoms([0, 1])])
    rotated = Rotator(atoms).copies(haar(1, torch.Generator().manual_seed(0)))[0]
    rotated.constraints[0].index[0] = 5
    assert atoms.constraints[0].index.tolist() == [0, 1]
