"""The budget: changes of momentum, angular momentum and energy, against the integrals of force and torque."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.lj import LennardJones
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.verlet import VelocityVerlet

from equiv_probe_ase.dynamics.budget import Budget, known_results, mechanics
from equiv_probe_ase.dynamics.monitor import SymmetryMonitor

from .monitored import SPIN, TILT, LinearField, angular_momentum, cluster, fixed, moving


def watched(calculator, steps: int, step: float = 0.5) -> tuple[Atoms, Budget]:
    atoms, dyn = moving(calculator, step)
    monitor = SymmetryMonitor(dyn, atoms, every=10**6, conservative_every=0, log=None)
    dyn.run(steps)
    return atoms, monitor.budget


def test_force_torque_and_momenta_of_one_instant() -> None:
    atoms = cluster()
    atoms.calc = LinearField(TILT)
    forces = atoms.get_forces()
    now = mechanics(atoms, known_results(atoms))
    arms = atoms.positions - atoms.get_center_of_mass()
    # Sums of five terms of size one, in float64.
    np.testing.assert_allclose(now.force, forces.sum(0), atol=1e-13)
    np.testing.assert_allclose(now.torque, np.cross(arms, forces).sum(0), atol=1e-13)
    np.testing.assert_allclose(now.angular, angular_momentum(atoms), atol=1e-12)
    np.testing.assert_allclose(now.momentum, atoms.get_momenta().sum(0) / units.fs, atol=1e-12)
    assert now.total == pytest.approx(atoms.get_total_energy(), rel=1e-14)


def test_results_of_other_positions_are_not_used_and_nothing_is_calculated() -> None:
    atoms = cluster()
    atoms.calc = LinearField(TILT)
    assert known_results(atoms) == {}
    atoms.get_forces()
    assert set(known_results(atoms)) == {"energy", "forces"}
    atoms.positions[0, 0] += 1e-9
    assert known_results(atoms) == {}
    assert atoms.calc.calls == 1


@pytest.mark.slow
@pytest.mark.parametrize("matrix", [TILT, TILT + SPIN], ids=["conservative", "not conservative"])
def test_under_velocity_verlet_the_budget_closes_to_rounding(matrix: np.ndarray) -> None:
    """For any forces and any time step: the trapezoidal rule is what the integrator does."""
    before = angular_momentum(cluster())
    for step in (0.5, 2.0):
        atoms, budget = watched(LinearField(matrix), 100, step)
        change = angular_momentum(atoms) - before
        assert np.linalg.norm(change) > 0.5  # eV·fs: there is something to explain
        rounding = 1e-12 * np.linalg.norm(change)  # a hundred steps in float64
        np.testing.assert_allclose(budget.angular, change, atol=rounding)
        assert np.linalg.norm(budget.remainder) < rounding
        assert np.linalg.norm(budget.momentum) > 0.5
        assert np.linalg.norm(budget.momentum_remainder) < rounding


def test_the_closing_would_notice_another_rule() -> None:
    """Control: torque at the beginning of each step, held over it, leaves a thousandth unexplained and more."""
    atoms, dyn = moving(LinearField(TILT))
    torques, start = [], angular_momentum(atoms)
    dyn.attach(lambda: torques.append(mechanics(atoms, known_results(atoms)).torque))
    dyn.run(200)
    change = angular_momentum(atoms) - start
    rest = change - 0.5 * np.sum(torques[:-1], axis=0)
    assert np.linalg.norm(rest) > 1e-3 * np.linalg.norm(change)


def test_change_of_angular_momentum_in_closed_form_to_second_order() -> None:
    """Diagonal field, unit masses: every coordinate is a harmonic oscillator, and L(t) is known."""
    stiffness = np.array([1.0, 0.4, 0.1])
    errors = []
    for step in (0.4, 0.2):
        atoms = Atoms("H2", [[0.5, -0.7, 0.3], [-0.5, 0.7, -0.3]], masses=[1.0, 1.0])  # its centre stays at the origin
        atoms.set_momenta([[0.2, 0.1, -0.1], [-0.2, -0.1, 0.1]])
        atoms.calc = LinearField(np.diag(stiffness))
        x, p, before = atoms.positions.copy(), atoms.get_momenta(), angular_momentum(atoms)
        dyn = VelocityVerlet(atoms, step * units.fs)
        monitor = SymmetryMonitor(dyn, atoms, every=10**6, conservative_every=0, log=None)
        dyn.run(round(40 / step))
        t, omega = 40 * units.fs, np.sqrt(stiffness)
        later = Atoms("H2", x * np.cos(omega * t) + p / omega * np.sin(omega * t), masses=[1.0, 1.0])
        later.set_momenta(p * np.cos(omega * t) - omega * x * np.sin(omega * t))
        exact = angular_momentum(later) - before
        assert np.linalg.norm(exact) > 0.5
        errors.append(np.linalg.norm(monitor.budget.angular_impulse - exact) / np.linalg.norm(exact))
    assert errors[0] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)  # second order


def test_forces_that_respect_rotation_make_no_torque() -> None:
    atoms = Atoms("Ar4", 3.7 * np.array([[0, 0, 0], [1, 0, 0.1], [0, 1.1, 0], [0.2, 0, 1]]))
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)))
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=12.0)
    dyn = VelocityVerlet(atoms, 5 * units.fs)
    monitor = SymmetryMonitor(dyn, atoms, every=10**6, conservative_every=0, log=None)
    dyn.run(100)
    # Forces of 0.02 eV/Å over 4 Å in float64.
    assert monitor.budget.torque < 1e-15
    assert np.linalg.norm(monitor.budget.angular) < 1e-10
    assert np.linalg.norm(mechanics(atoms, known_results(atoms)).angular) > 1.0


def test_a_thermostat_and_a_held_atom_are_what_remains() -> None:
    """The model makes no torque, the angular momentum changes all the same: it is all remainder, and named."""
    for held in (False, True):
        atoms = Atoms("Ar3", 3.7 * np.eye(3))
        atoms.set_momenta(np.random.default_rng(0).normal(size=(3, 3)))
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=12.0)
        timestep = 5 * units.fs
        rng = np.random.default_rng(1)
        dyn = (
            VelocityVerlet(fixed(atoms), timestep)
            if held
            else LangevinBAOAB(atoms, timestep, temperature_K=300, T_tau=100 * units.fs, rng=rng)
        )
        monitor = SymmetryMonitor(dyn, atoms, every=10**6, conservative_every=0, log=None)
        dyn.run(50)
        budget = monitor.budget
        assert np.linalg.norm(budget.angular_impulse) < 1e-10
        assert np.linalg.norm(budget.angular) > 0.1
        np.testing.assert_allclose(budget.remainder, budget.angular, atol=1e-10)
        assert f"({'FixAtoms' if held else 'LangevinBAOAB'}: what acts beside" in " ".join(monitor.report().notes)


def test_a_periodic_structure_has_no_torque_and_says_why() -> None:
    atoms, dyn = moving(LinearField(TILT))
    atoms.set_cell([10, 10, 10])
    atoms.pbc = [True, False, False]
    monitor = SymmetryMonitor(dyn, atoms, every=10**6, conservative_every=0, log=None)
    dyn.run(3)
    assert np.isnan(monitor.budget.torque)
    assert np.linalg.norm(monitor.budget.momentum_remainder) < 1e-12
    assert "which image of each atom" in " ".join(monitor.report().notes)
