"""Forces that are not the gradient of the energy: found, measured, and told from broken rotation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.lj import LennardJones
from ase.md.verlet import VelocityVerlet

from equiv_probe.rotations.haar import haar
from equiv_probe_ase.dynamics.monitor import SymmetryMonitor
from equiv_probe_ase.evaluators import evaluator_for
from equiv_probe_ase.evaluators.conservative import defect, directions, slopes
from equiv_probe_ase.evaluators.engine import Engine
from equiv_probe_ase.structures.rotation import Rotator

from .monitored import SPIN, TILT, LinearField, cluster, moving


def engine(calculator) -> Engine:
    return Engine(evaluator_for(calculator))


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.0, 0.01, 1.0])
def test_mean_square_over_directions_in_closed_form(strength: float) -> None:
    """``F = −(S + A) x``: the defect is ``−A x``, whatever S."""
    atoms = cluster()
    field = LinearField(TILT + strength * SPIN)
    along = directions(1000, atoms, np.random.default_rng(0))
    (found,) = slopes(engine(field), [atoms], [along], "energy", 5e-3)
    true = -strength * atoms.positions @ SPIN.T
    # Every single direction, to rounding: the energy is quadratic, five points are exact.
    np.testing.assert_allclose(found.defects, np.einsum("uni,ni->u", along, true), atol=1e-11)
    # And their mean square; chi-squared with one degree of freedom, so √(2/1000) = 4.5 %.
    assert np.mean(found.defects**2) == pytest.approx(np.mean(true**2), rel=0.15, abs=1e-22)
    assert np.mean(found.noises**2) < 1e-22


def test_power_along_the_motion_and_of_the_twirled_model() -> None:
    """Rotated antisymmetric matrices average to zero: no power is left of the twirled model."""
    atoms = cluster()
    rotated = Rotator(atoms, "origin").copies(haar(400, torch.Generator().manual_seed(0)))
    found = defect(engine(LinearField(TILT + SPIN)), atoms, np.random.default_rng(0), rotated=rotated)
    velocities = atoms.get_velocities() * units.fs
    assert found.power == pytest.approx(-float((velocities * (atoms.positions @ SPIN.T)).sum()), rel=1e-9)
    # The power over rotations scatters by about itself; 400 of them.
    assert abs(found.twirled_power) < 0.2 * abs(found.power)
    # Control: with copies that are not rotated, nothing is taken away.
    unrotated = Rotator(atoms, "origin").copies(torch.eye(3).double().expand(3, 3, 3))
    same = defect(engine(LinearField(TILT + SPIN)), atoms, np.random.default_rng(0), rotated=unrotated)
    assert same.twirled_power == pytest.approx(found.power, rel=1e-9)


def test_broken_rotation_alone_is_no_defect() -> None:
    found = defect(engine(LinearField(TILT)), cluster(), np.random.default_rng(0))
    assert found.square < 1e-22
    assert abs(found.power) < 1e-12


def test_the_floor_is_of_the_size_of_the_error() -> None:
    """Energies rounded to 1e-5 eV: the noise that is read off the energies is the error of the slopes."""

    class Rounded(LinearField):
        def calculate(self, *args, **kwargs) -> None:
            super().calculate(*args, **kwargs)
            self.results["energy"] = round(self.results["energy"], 5)

    atoms = cluster()
    along = directions(500, atoms, np.random.default_rng(0))
    (found,) = slopes(engine(Rounded(TILT)), [atoms], [along], "energy", 5e-3)
    error, noise = (float(np.sqrt(np.mean(values**2))) for values in (found.defects, found.noises))
    assert error > 1e-4
    assert noise == pytest.approx(error, rel=0.15)


def test_a_curved_energy_is_followed_and_rest_has_no_power() -> None:
    atoms = Atoms("Ar4", 3.7 * np.array([[0, 0, 0], [1, 0, 0.1], [0, 1.1, 0], [0.2, 0, 1]]))
    calculator = LennardJones(sigma=3.4, epsilon=0.0104, rc=12.0)
    found = defect(engine(calculator), atoms, np.random.default_rng(0))
    assert found.square < found.floor < 1e-12
    assert found.size > 1e-5
    assert np.isnan(found.power)


@pytest.mark.slow
def test_a_drift_of_the_total_energy_is_told_from_broken_rotation() -> None:
    """One conserves energy and not angular momentum, the other neither; the power accounts for the drift."""
    drifts = {}
    for name, matrix in (("tilted", TILT), ("spinning", TILT + 0.05 * SPIN)):
        atoms, dyn = moving(LinearField(matrix), 0.2)
        monitor = SymmetryMonitor(dyn, atoms, every=10, conservative_every=10, log=None)
        dyn.run(400)
        rows = monitor.log.rows
        powers = [row["defect_power_eV_per_ps"] for row in rows]
        work = np.trapezoid(powers, [row["time_fs"] for row in rows]) / 1e3
        drifts[name] = monitor.budget.energy, work, np.linalg.norm(monitor.budget.angular)
        notes = " ".join(monitor.report().notes)
        said = "not the energy's gradient" in notes
        assert said == (name == "spinning")
        assert ("what drift there is comes from the integrator" in notes) == (name == "tilted")
    kept, none, spun = drifts["tilted"]
    gained, work, _ = drifts["spinning"]
    assert abs(none) < 1e-9
    assert abs(gained) > 0.05
    # The integrator's own error in the energy is bounded and is what the conservative field shows.
    assert gained == pytest.approx(work, abs=3 * abs(kept) + 1e-3 * abs(gained))
    assert spun > 1.0


@pytest.mark.slow
def test_single_precision_does_not_cry_wolf() -> None:
    """A float32 model with conservative forces is not said to be non-conservative."""

    class Single(LinearField):
        def calculate(self, *args, **kwargs) -> None:
            super().calculate(*args, **kwargs)
            x, matrix = self.atoms.positions.astype(np.float32), self.matrix.astype(np.float32)
            energy = np.float32(-300) + np.float32(0.5) * (x * (x @ matrix)).sum(dtype=np.float32)
            self.results = {"energy": float(energy), "forces": (-x @ matrix).astype(float)}

    atoms = cluster()
    atoms.calc = Single(TILT)
    dyn = VelocityVerlet(atoms, 0.5 * units.fs)
    monitor = SymmetryMonitor(dyn, atoms, every=5, conservative_every=5, log=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dyn.run(50)
    assert monitor.symmetry.precision == torch.float32
    assert "the forces are the energy's gradient" in " ".join(monitor.report().notes)
    assert "what drift there is comes from the integrator" in " ".join(monitor.report().notes)
