"""TwirledCalculator against closed forms: averages, uncertainties, gradients.

The anisotropic wells are quadratic and quartic in the positions *about the origin*: they know where they are and which
way is up, so nothing that a real force field does right hides a wrong centre, sign or transpose. Tolerances are those
of float64 sums of tens of terms, 1e-12 relative, unless the test says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

import equiv_probe as ep
from equiv_probe.rotations.designs import group
from equiv_probe_ase import TwirledCalculator

from .wells import ROUND_OFF, TRACE, WELL, BatchedWell, Well, traceless, twirled

if TYPE_CHECKING:
    from ase import Atoms


@pytest.mark.parametrize("design", ["tetrahedral", "octahedral", "icosahedral", "lebedev-3"])
@pytest.mark.parametrize("inner", [Well, BatchedWell])
def test_the_average_is_the_closed_form(cluster: Atoms, design: str, inner: type[Well]) -> None:
    """A quadratic well has degrees 0 and 2 only: from degree 2 on every design gives the twirl exactly."""
    cluster.pbc, cluster.cell = True, [[8.0, 0, 0], [1, 9, 0], [2, 1, 10]]
    energy, forces, stress = twirled(cluster)
    for seed in range(3):
        cluster.calc = TwirledCalculator(inner(), ep.RotationPlan(design, replicates=1), seed=seed)
        assert cluster.get_potential_energy() == pytest.approx(energy, rel=ROUND_OFF)
        np.testing.assert_allclose(cluster.get_forces(), forces, atol=ROUND_OFF)
        np.testing.assert_allclose(cluster.get_stress(voigt=False), stress, atol=ROUND_OFF)
        np.testing.assert_allclose(cluster.get_stress(), full_3x3_to_voigt_6_stress(stress), atol=ROUND_OFF)
        np.testing.assert_allclose(cluster.get_dipole_moment(), TRACE / 3 * cluster.positions.sum(0), atol=1e-11)
        np.testing.assert_allclose(cluster.get_charges(), 0, atol=ROUND_OFF)  # x averages to zero


def test_without_averaging_it_is_not(cluster: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: with the identity for every rotation the closed form is missed by its own size."""
    plan = ep.RotationPlan("tetrahedral", replicates=1)
    identities = torch.eye(3).double().repeat(1, 12, 1, 1)
    monkeypatch.setattr(ep.RotationPlan, "rotations", lambda self, generator=None: identities)
    cluster.calc = TwirledCalculator(Well(), plan)
    np.testing.assert_allclose(cluster.get_forces(), -cluster.positions @ WELL, atol=ROUND_OFF)
    assert abs(cluster.get_forces() + TRACE / 3 * cluster.positions).max() > 0.3
    assert cluster.calc.results["forces_std"].max() < ROUND_OFF


def test_four_rotations_leave_degree_two(cluster: Atoms) -> None:
    """The Klein group is of degree 1: degree 2 goes on average over its random rotations, not in each."""
    cluster.calc = TwirledCalculator(Well(), ep.RotationPlan("klein", replicates=1))
    assert abs(cluster.get_forces() + TRACE / 3 * cluster.positions).max() > 0.05
    many = TwirledCalculator(Well(), ep.RotationPlan("klein", replicates=500), properties=["forces"])
    error = abs(many.get_forces(cluster) + TRACE / 3 * cluster.positions)
    assert error.max() < 0.15  # a spread of about 1 eV/Å over √500, times three


@pytest.mark.parametrize("plan", [ep.RotationPlan("klein", replicates=1), ep.RotationPlan("haar", replicates=3)])
def test_forces_are_the_gradient_of_the_average_energy(cluster: Atoms, plan: ep.RotationPlan) -> None:
    """For any fixed rotations, however few, and for a model that depends on where the structure is.

    Central differences of a quartic: the error of step h is h² times a fourth derivative of order one, so 1e-8 at 1e-4,
    and rounding of 1e-15 / 1e-4 is far below.
    """
    calc = TwirledCalculator(Well(quartic=0.5), plan, properties=["energy", "forces"])
    forces, step = calc.get_forces(cluster), 1e-4
    assert abs(forces - Well(quartic=0.5).get_forces(cluster)).max() > 0.1
    for atom, axis in np.ndindex(forces.shape):
        energies = []
        for sign in (1, -1):
            moved = cluster.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(calc.get_potential_energy(moved))
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / 2 / step, abs=1e-7)


def test_redrawn_forces_are_no_gradient(cluster: Atoms) -> None:
    """The control of the test above: with new rotations at every call the differences are those of the rotations."""
    calc = TwirledCalculator(Well(quartic=0.5), ep.RotationPlan("haar", replicates=3), redraw=True)
    first, again = calc.get_potential_energy(cluster), calc.get_potential_energy(cluster.copy())
    assert first == again  # the same state: from memory
    moved = cluster.copy()
    moved.positions[0, 0] += 1e-4
    assert abs(calc.get_potential_energy(moved) - first) > 0.01


@pytest.mark.parametrize("component", range(6))
def test_stress_is_the_strain_derivative_of_the_average_energy(cluster: Atoms, component: int) -> None:
    """For any fixed rotations; symmetric strains, central differences as above."""
    cluster.pbc, cluster.cell = True, [[4.0, 0, 0], [1, 4, 0], [0, 1, 5]]
    calc = TwirledCalculator(Well(quartic=0.5), ep.RotationPlan("klein", replicates=1), properties=["energy", "stress"])
    stress = calc.get_stress(cluster)[component]
    strain = voigt_6_to_full_3x3_stress(np.eye(6)[component]) / (1 if component < 3 else 2)
    energies = []
    for step in (1e-4, -1e-4):
        strained = cluster.copy()
        strained.set_cell(cluster.cell.array @ (np.eye(3) + step * strain), scale_atoms=True)
        energies.append(calc.get_potential_energy(strained))
    assert stress == pytest.approx((energies[0] - energies[1]) / 2e-4 / cluster.get_volume(), abs=1e-7)
    assert abs(stress - Well(quartic=0.5).get_stress(cluster)[component]) > 1e-3


def test_uncertainties_are_the_closed_forms(cluster: Atoms) -> None:
    """The orbit's variance is of degree 4: one icosahedral replicate, of degree 5, gives it exactly.

    ``Var_g ½ tr(A g S gᵀ) = ‖A₂‖²‖S₂‖²/20`` and ``E_g ‖gᵀ A₂ g x‖² = ‖A₂‖²‖x‖²/3`` with S = Σ x xᵀ (Schur's lemma), A₂
    and S₂ the traceless parts.
    """
    calc = TwirledCalculator(Well(), properties=["energy", "forces"])
    calc.get_forces(cluster)
    spread = cluster.positions.T @ cluster.positions
    norms = [traceless(WELL), traceless(spread)]
    assert calc.results["energy_std"] == pytest.approx((norms[0] * norms[1] / 20) ** 0.5, rel=1e-9)
    total = (calc.results["forces_std"] ** 2).sum(1)
    np.testing.assert_allclose(total, norms[0] * (cluster.positions**2).sum(1) / 3, rtol=1e-9)
    assert set(calc.results) == {"energy", "forces", "energy_std", "forces_std"}  # one replicate: no standard error


@pytest.mark.slow
@pytest.mark.parametrize("design", ["haar", "klein"])
def test_uncertainties_are_unbiased_and_say_how_far_off_the_average_is(cluster: Atoms, design: str) -> None:
    """Over 400 redrawn plans: the squares average to the closed form, and the error to what the standard error says.

    A mean of 400 squares has a relative error of about √(2/400)·√(degrees) ≲ 0.15 (three of them: 0.25 with four
    replicates' heavy tails); the plug-in variance of four replicates would be short by a quarter.
    """
    calc = TwirledCalculator(Well(), ep.RotationPlan(design, replicates=4), redraw=True, properties=["energy"])
    energy = twirled(cluster)[0]
    errors, stds, stderrs = [], [], []
    for _ in range(400):
        calc.reset()
        errors.append(calc.get_potential_energy(cluster) - energy)
        stds.append(calc.results["energy_std"])
        stderrs.append(calc.results["energy_stderr"])
    spread = cluster.positions.T @ cluster.positions
    norms = [traceless(WELL), traceless(spread)]
    # Negative estimates are shown as zero, which lifts the mean of four Haar rotations' squares by a few percent.
    assert np.mean(np.square(stds)) == pytest.approx(norms[0] * norms[1] / 20, rel=0.12)
    assert np.mean(np.square(stderrs)) == pytest.approx(np.mean(np.square(errors)), rel=0.25)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / 20  # unbiased
    assert np.std(errors) > 0.05


def test_a_random_frame_costs_one_evaluation_and_is_unbiased(cluster: Atoms) -> None:
    inner = Well()
    calc = TwirledCalculator(inner, mode="random-frame", properties=["energy", "forces"])
    forces = []
    for _ in range(500):
        calc.reset()
        forces.append(calc.get_forces(cluster))
    assert calc.evaluations == inner.evaluations == 500
    assert set(calc.results) == {"energy", "forces"}
    error = np.std(forces, axis=0) / 500**0.5
    away = (np.mean(forces, axis=0) - twirled(cluster)[1]) / error
    assert abs(away).max() < 4  # of twelve numbers
    assert (np.mean(forces, axis=0) - Well().get_forces(cluster)).__abs__().max() > 10 * error.max()


@pytest.mark.parametrize("mode", ["average", "random-frame"])
@pytest.mark.parametrize("calculator", [EMT, LennardJones])
def test_a_symmetric_calculator_stays_what_it_is(crystal: Atoms, mode: str, calculator: Any) -> None:
    calc = TwirledCalculator(calculator(), mode=mode)
    for name in ("energy", "forces", "stress"):
        np.testing.assert_allclose(
            calc.get_property(name, crystal), calculator().get_property(name, crystal), atol=1e-11
        )
    if mode == "average":
        assert max(np.max(calc.results[f"{name}_std"]) for name in ("energy", "forces", "stress")) < 1e-11


def test_one_replicate_of_a_group_is_symmetric_under_that_group_and_no_more(cluster: Atoms) -> None:
    """What the class says about itself, on a quartic, which has degree 4: beyond the octahedral group's 3."""
    plan = ep.RotationPlan("octahedral", replicates=1)
    calc = TwirledCalculator(Well(quartic=1.0), plan, properties=["energy"])
    energy = calc.get_potential_energy(cluster)
    own = calc.rotations[0, 0].mT @ calc.rotations[0, 5]  # p⁻¹ d p: the group as each plan rotates it
    for matrix, same in ((own.numpy(), True), (group("octahedral")[5].numpy(), False)):
        rotated = cluster.copy()
        rotated.positions = cluster.positions @ matrix.T
        assert (abs(calc.get_potential_energy(rotated) - energy) < 1e-11) == same


@pytest.mark.slow
def test_a_sample_of_the_cubes_rotations_is_as_uncertain_as_what_is_left_out(cluster: Atoms) -> None:
    """All 24 without replacement are the cube itself, and nothing is left to chance."""
    cube = TwirledCalculator(Well(quartic=1.0), ep.RotationPlan("cube"), properties=["energy"])
    energy = cube.get_potential_energy(cluster)
    results = {}
    for subset in (12, 24):
        plan = ep.RotationPlan("cube", subset=subset)
        calc = TwirledCalculator(Well(quartic=1.0), plan, redraw=True, properties=["energy"])
        errors, stderrs = [], []
        for _ in range(100):
            calc.reset()
            errors.append(calc.get_potential_energy(cluster) - energy)
            stderrs.append(calc.results["energy_stderr"])
        results[subset] = np.sqrt(np.mean(np.square(errors))), np.sqrt(np.mean(np.square(stderrs)))
    assert max(results[24]) < 1e-10
    assert results[12][1] == pytest.approx(results[12][0], rel=0.25)  # 100 squares: √(2/100)/2 = 7 %, three times that
