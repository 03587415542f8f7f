"""``Var(E) ≤ ½⟨τ²⟩``: an equality for the smoothest energies, from which nothing may be concluded by chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

import equiv_probe as ep
from equiv_probe_ase import SymmetryMonitor

from .monitored import LinearField, cluster

PULL = np.outer([1.0, -2.0, 0.5, 0.3, 0.2], [0.3, 0.1, 0.2])  # eV/Å, no net force


class Pulled(LinearField):
    """``E = −Σ x·f`` in a constant field: of degree one alone, where the bound is an equality. Forces are scaled."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        self.results = {
            "energy": -float((self.atoms.positions * PULL).sum()),
            "forces": float(self.matrix[0, 0]) * PULL,
        }


def claims(scale: float, frames: int, seed: int) -> tuple[bool, SymmetryMonitor]:
    atoms = cluster()
    atoms.calc = Pulled(scale * np.eye(3))
    dyn = VelocityVerlet(atoms, 0.5 * units.fs)
    plan = ep.RotationPlan("haar", 4, seed=seed)
    monitor = SymmetryMonitor(dyn, atoms, every=1, log=None, plan=plan, conservative_every=0)
    dyn.run(frames - 1)
    return "more than the" in " ".join(monitor.report().notes), monitor


@pytest.mark.slow
def test_equality_in_expectation() -> None:
    _, monitor = claims(1.0, 80, 0)
    rows = monitor.log.rows
    variance = np.array([row["energy_L_equiv"] for row in rows])
    bound = np.array([row["energy_torque_bound_meV_per_atom"] for row in rows]) ** 2
    error = (variance - bound).std(ddof=1) / np.sqrt(len(rows))
    assert abs(np.mean(variance - bound)) < 4 * error
    assert error < 0.2 * bound.mean()  # sharp enough to see a factor of two


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 3, 6])
def test_conservative_forces_are_not_accused_by_chance(frames: int) -> None:
    """Comparing the two estimates alone would accuse half of these runs."""
    assert not any(claims(1.0, frames, seed)[0] for seed in range(10))


@pytest.mark.slow
def test_forces_that_are_too_small_for_the_energy_are_found() -> None:
    """Half the force, a quarter of the bound: seen over thirty frames."""
    assert all(claims(0.5, 30, seed)[0] for seed in range(3))
    assert all(claims(0.0, 1, seed)[0] for seed in range(3))
