"""The pieces of the study of conserved quantities: forces that are a gradient, and drifts in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes

from .studies import module_of

FOLDER = Path(__file__).parents[2] / "integrations" / "dynamics"


def test_gradient_forces_are_the_gradient_of_the_energy_and_the_direct_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Central differences of a float64 energy of -4000 eV: rounding of 1e-12 over 1e-3, and a cubic term of 1e-6."""
    module = module_of(FOLDER / "gradient_forces.py", "dynamics_gradient_forces", monkeypatch)
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=0)
    conservative, direct = module.gradient_forces(), module.direct_forces(dtype="float64")
    assert conservative.get_potential_energy(atoms) == pytest.approx(direct.get_potential_energy(atoms), abs=1e-9)
    forces, step = conservative.get_forces(atoms), 1e-3
    for atom, axis in ((0, 0), (2, 1), (8, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(conservative.get_potential_energy(moved))
        assert forces[atom, axis] == pytest.approx((energies[1] - energies[0]) / 2 / step, abs=2e-4)
    assert abs(forces - direct.get_forces(atoms)).max() > 0.05
    assert abs(forces.sum(0)).max() < 1e-9  # a shift changes nothing
    two = conservative.calculate_batch([molecule("CH4"), atoms], ["forces"])  # a batch does not mix them
    np.testing.assert_allclose(two[1]["forces"], forces, atol=1e-9)


class Rotating(Calculator):
    """A constant torque and a constant power: tangential forces on a ring, beside no energy at all."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms: Atoms | None = None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        axis = np.array([0.0, 0.0, 1.0])
        self.results = {"energy": 0.0, "forces": 1e-3 * np.cross(axis, self.atoms.positions) + 0.05}


def test_drifts_are_the_closed_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heavy atoms hardly move: each, at 1 Å, feels 1e-3 eV/Å along the circle, a torque of 2e-3 eV together.

    A push on the whole does not count. The energy grows with the square of the time, and the slope of a parabola c t²
    over [0, T] is c T.
    """
    module = module_of(FOLDER / "drift.py", "dynamics_drift", monkeypatch)
    atoms = Atoms("Au2", [[1.0, 0, 0], [-1.0, 0, 0]])
    atoms.set_masses([1e6, 1e6])
    atoms.calc = Rotating()
    run = module.run_nve(atoms, steps=100, femtoseconds=1.0)
    picosecond = 1000 * units.fs
    hbar = 6.582119569e-16 * 1e15 * units.fs  # eV·s
    assert run.times[-1] == pytest.approx(0.1)
    assert run.momentum_drift == pytest.approx(2e-3 * picosecond / hbar, rel=1e-6)
    assert run.momentum_lost[-1] == pytest.approx(2e-4 * picosecond / hbar, rel=1e-6)
    forces = Rotating().get_forces(Atoms("Au2", [[1.0, 0, 0], [-1.0, 0, 0]]))
    parabola = float((forces**2).sum()) / 2e6 / 2 * picosecond**2  # eV/atom/ps²
    assert run.energy_drift == pytest.approx(1e3 * parabola * 0.1, rel=1e-3)
