"""A model whose outputs depend on the other structures in a batch, averaged and watched: it is evaluated alone."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from equiv_probe import RotationPlan
from equiv_probe_ase import SymmetryMonitor, TwirledCalculator, audit

from ..dynamics.monitored import moving
from .wells import BatchedWell, cluster, twirled

DOES_NOT = "does not depend on its batch"
PLAN = RotationPlan("tetrahedral", replicates=2)


class Coupled(BatchedWell):
    """Scaled by the mean energy of a batch, as normalisation over samples does it; alone it is the well."""

    def calculate_batch(self, structures: Any, properties: Any) -> list[dict[str, Any]]:
        found = super().calculate_batch(structures, properties)
        mean = np.mean([one["energy"] for one in found])
        return [
            {name: value * (1 + 0.2 * (mean - one["energy"]) / abs(mean)) for name, value in one.items()}
            for one in found
        ]


class Shifted(BatchedWell):
    """Adds what the batch has in common, and alone nothing."""

    def calculate_batch(self, structures: Any, properties: Any) -> list[dict[str, Any]]:
        shift = np.mean([atoms.positions.std() for atoms in structures]) * (len(structures) > 1)
        return [{**one, "energy": one["energy"] + shift} for one in super().calculate_batch(structures, properties)]


@pytest.mark.parametrize("model", [Coupled, Shifted])
def test_the_average_is_that_of_single_evaluations(model: Any) -> None:
    atoms = cluster()
    energy, forces, _ = twirled(atoms)
    calculator = TwirledCalculator(model(), PLAN)
    with pytest.warns(UserWarning, match="depends on its neighbours in the batch.*evaluated alone"):
        found = calculator.get_potential_energy(atoms)
    assert found == pytest.approx(energy, rel=1e-12)
    assert calculator.get_forces(atoms) == pytest.approx(forces, abs=1e-12)
    assert [control.failed for control in calculator.controls] == [True]
    assert calculator.model_calls == calculator.evaluations >= PLAN.size
    # Without the control it would be another number: that of the batch of all rotations.
    trusting = TwirledCalculator(model(), PLAN)
    trusting._averager._asks_left = 0
    assert abs(trusting.get_potential_energy(atoms) - energy) > 1e-3


@pytest.mark.parametrize("how", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_know_what_was_found(how: Any) -> None:
    calculator = TwirledCalculator(Coupled(), PLAN)
    with pytest.warns(UserWarning, match="evaluated alone"):
        calculator.get_forces(cluster())
    twin = how(calculator)
    moved = cluster()
    moved.positions[0, 0] += 0.1
    assert twin.get_potential_energy(moved) == pytest.approx(twirled(moved)[0], rel=1e-12)


def test_a_sound_batch_is_used() -> None:
    calculator = TwirledCalculator(BatchedWell(), PLAN)
    assert calculator.get_potential_energy(cluster()) == pytest.approx(twirled(cluster())[0], rel=1e-12)
    assert [control.passed for control in calculator.controls] == [True]
    assert calculator.model_calls < calculator.evaluations
    assert not TwirledCalculator(BatchedWell(), batched=False).controls


@pytest.mark.slow
def test_an_audit_of_the_average_says_so() -> None:
    with pytest.warns(UserWarning, match="evaluated alone"):
        report = audit(TwirledCalculator(Coupled(), PLAN), cluster())
    (control,) = [control for control in report.controls if control.name == DOES_NOT]
    assert control.failed
    assert report["energy"].verdict == "round-off"


@pytest.mark.slow
@pytest.mark.parametrize("model", [Coupled, Shifted])
def test_a_monitor_measures_single_evaluations(model: Any) -> None:
    """Of a quadratic well the twirl is known, and so is what every frame varies by over rotations."""
    found = []
    for kind in (model, BatchedWell):
        atoms, dyn = moving(kind())
        monitor = SymmetryMonitor(dyn, atoms, every=2, plan=PLAN, log=None, conservative_every=2)
        dyn.run(4)
        found.append(monitor.report())
    coupled, sound = found
    assert [control.state for control in coupled.controls if control.name == DOES_NOT] == ["FAILED"]
    assert [control.state for control in sound.controls if control.name == DOES_NOT] == ["passed"]
    assert (
        "one call per structure (its outputs depend on the other structures in a batch)"
        in coupled.protocol["evaluator"]
    )
    assert sound.protocol["evaluator"] == "BatchedWell, batched"
    for name in ("energy", "forces"):
        assert coupled[name].rms == pytest.approx(sound[name].rms, rel=1e-9)
    twirls = [[row["energy_twirl_eV"] for row in report.history] for report in found]
    assert twirls[0] == pytest.approx(twirls[1], rel=1e-12)


def test_another_calculator_is_asked_anew() -> None:
    atoms, dyn = moving(Coupled())
    monitor = SymmetryMonitor(dyn, atoms, every=1, plan=PLAN, log=None)
    dyn.run(1)
    assert monitor.symmetry.controls[0].failed
    atoms.calc = BatchedWell()
    dyn.run(1)
    assert not monitor.symmetry.controls[0].failed
    assert monitor.symmetry.evaluator == "BatchedWell, batched"
