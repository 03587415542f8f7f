"""What is a state to a TwirledCalculator: memory, frames, batches in between, inputs that ASE does not compare."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe_ase import TwirledCalculator, audit
from equiv_probe_ase.calculators.private_copy import own_copy
from equiv_probe_ase.dynamics.molecular_dynamics import molecular_dynamics

from .wells import BatchedWell, Well

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KLEIN = ep.RotationPlan("klein", replicates=1)


@pytest.mark.parametrize("inner", [Well, BatchedWell])
def test_a_batch_in_between_does_not_change_the_frame_of_the_state(cluster: Atoms, inner: type[Well]) -> None:
    """Energies of atoms that are asked for after it still sum up to the energy of the same frame."""
    calc = TwirledCalculator(inner(), mode="random-frame")
    energy, rotations = calc.get_potential_energy(cluster), calc.rotations
    other = calc.calculate_batch([cluster, cluster], ["energy"])
    assert len({round(energy, 6), *(round(one["energy"], 6) for one in other)}) == 3  # frames of their own
    assert (calc.rotations == rotations).all()
    assert calc.get_potential_energies(cluster).sum() == pytest.approx(energy, rel=1e-12)
    assert calc.calculate_batch([], ["energy"]) == []


def test_what_every_state_is_asked_for_is_evaluated_with_the_rest() -> None:
    """A cell filter on a slab asks for its stress, which slabs are not evaluated for unasked: once, it costs a pass."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    atoms.calc = calc = TwirledCalculator(LennardJones(), KLEIN)
    costs, before = [], 0
    for seed in range(5):
        atoms.rattle(0.01, seed=seed)
        atoms.get_forces()
        if seed < 3:
            atoms.get_stress()
        costs.append(calc.evaluations - before)
        before = calc.evaluations
    assert costs == [8, 4, 4, 4, 4]
    assert "stress" not in calc.results  # and no longer, when it is not asked for any more


class InField(Well):
    """With a field along ``atoms.info["field"]``, which ASE does not look at when it compares structures."""

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        super().calculate(atoms, properties, system_changes or [])
        field = self.atoms.info["field"]
        self.results["energy"] -= float(self.atoms.positions.sum(0) @ field)
        self.results["forces"] = self.results["forces"] + field


@pytest.mark.parametrize("in_place", [True, False])
def test_a_declared_input_that_changes_is_a_new_state(cluster: Atoms, in_place: bool) -> None:
    cluster.info["field"] = np.array([0.0, 0.0, 1.0])
    schema = ep.Schema(inputs={"field": ep.vector}, outputs={})
    cluster.calc = calc = TwirledCalculator(InField(), KLEIN, schema=schema)
    weak = cluster.get_potential_energy()
    assert not calc.calculation_required(cluster, ["energy"])
    if in_place:
        cluster.info["field"] *= 3
    else:
        cluster.info["field"] = 3 * cluster.info["field"]
    assert weak - cluster.get_potential_energy() == pytest.approx(2 * cluster.positions[:, 2].sum(), rel=1e-9)


class LooksAtItsCharge(EMT):
    """As MACE does: it compares ``atoms.info`` itself."""

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> Any:
        changes = super().check_state(atoms, tol)
        return changes or [k for k in ("charge",) if self.atoms.info.get(k) != atoms.info.get(k)]


def test_what_the_calculator_within_sees_change_is_a_new_state(crystal: Atoms) -> None:
    crystal.calc = calc = TwirledCalculator(LooksAtItsCharge(), KLEIN)
    crystal.get_forces()
    assert not calc.calculation_required(crystal, ["forces"])
    crystal.info["remark"] = "irrelevant"
    assert not calc.calculation_required(crystal, ["forces"])
    crystal.info["charge"] = 1
    assert calc.calculation_required(crystal, ["forces"])


def _moving(calc: Any) -> Atoms:
    atoms = Atoms("CuAuNiPd", np.random.default_rng(3).normal(size=(4, 3)), calculator=calc)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)))
    return atoms


def _pickled(calc: TwirledCalculator, steps: int) -> TwirledCalculator:
    assert steps
    return pickle.loads(pickle.dumps(calc))


def _counted(calc: TwirledCalculator, steps: int) -> TwirledCalculator:
    made = TwirledCalculator(Well(), mode="random-frame", seed=calc.plan.seed)
    made.draws = steps
    return made


@pytest.mark.parametrize("again", [_pickled, _counted])
def test_a_run_in_random_frames_goes_on_as_if_it_had_not_stopped(
    again: Callable[[TwirledCalculator, int], TwirledCalculator], tmp_path: Path
) -> None:
    """Bit for bit; with a calculator made anew it does not, since the first frames come once more."""
    whole = _moving(TwirledCalculator(Well(), mode="random-frame", seed=3))
    VelocityVerlet(whole, 1 * units.fs).run(12)
    part = _moving(TwirledCalculator(Well(), mode="random-frame", seed=3))
    with Trajectory(tmp_path / "part.traj", "w", part) as trajectory:
        VelocityVerlet(part, 1 * units.fs, trajectory=trajectory).run(5)
    for calc, same in ((again(part.calc, 5), True), (TwirledCalculator(Well(), mode="random-frame", seed=3), False)):
        later = ase.io.read(tmp_path / "part.traj", -1)
        later.calc = calc
        VelocityVerlet(later, 1 * units.fs).run(7)
        assert (later.positions == whole.positions).all() == same
        assert (later.get_momenta() == whole.get_momenta()).all() == same


@pytest.mark.slow
def test_md_in_random_frames_resumes_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def run(steps: int, file: str, **options: Any) -> Atoms:
        atoms = _moving(None)
        calc = TwirledCalculator(Well(), mode="random-frame")
        molecular_dynamics(
            calc, atoms, steps=steps, every=5, trajectory=tmp_path / file, log=tmp_path / f"{file}.csv", **options
        )
        return atoms

    whole = run(20, "whole.traj", progress=False)
    run(10, "part.traj", progress=False)
    assert (run(20, "part.traj", resume=True, progress=False).positions == whole.positions).all()


def test_slips_are_explained(cluster: Atoms) -> None:
    slips = (
        ("tetraedral", "did you mean 'tetrahedral'"),
        ("random-frame", 'mode="random-frame"'),
        (12, "RotationPlan"),
    )
    for plan, said in slips:
        with pytest.raises(EquivProbeError, match=said):
            TwirledCalculator(EMT(), plan)
    assert TwirledCalculator(EMT(), "tetrahedral").plan == ep.RotationPlan("tetrahedral")
    with pytest.raises(EquivProbeError, match=r"seed=1.5; expected a whole number"):
        TwirledCalculator(EMT(), seed=1.5)
    with pytest.raises(EquivProbeError, match="atoms_per_call=0; expected a positive number"):
        TwirledCalculator(EMT(), atoms_per_call=0)
    with pytest.raises(EquivProbeError, match="no structure"):
        TwirledCalculator(EMT()).get_forces()
    with pytest.raises(EquivProbeError, match=r'Fix: properties=."forces"'):
        TwirledCalculator(Well()).calculate(cluster, "forces")
    calc = TwirledCalculator(Well(), KLEIN)
    calc.calculate(cluster, None)  # whatever there is
    assert {"energy", "forces", "charges"} <= calc.results.keys()


def test_a_class_is_a_factory(crystal: Atoms) -> None:
    np.testing.assert_allclose(TwirledCalculator(EMT, KLEIN).get_forces(crystal), EMT().get_forces(crystal), atol=1e-11)
    for wrong in (lambda: 3, __import__("torch").nn.Linear(1, 1), int):
        with pytest.raises(EquivProbeError, match="expected an ASE calculator, its name, or a factory"):
            TwirledCalculator(wrong)


def test_a_copy_of_its_own_shares_nothing_and_draws_on_its_own(cluster: Atoms) -> None:
    """That with which a monitor measures: neither frames nor counts of the calculator that moves the atoms change."""
    calc = TwirledCalculator(BatchedWell(), mode="random-frame", properties=["energy", "forces"])
    calc.get_forces(cluster)
    twin, shared = own_copy(calc)
    assert shared == []
    assert twin.calculator is not calc.calculator
    energies = [one["energy"] for one in twin.calculate_batch([cluster] * 3, ["energy"])]
    assert (calc.draws, twin.draws, calc.evaluations, twin.evaluations) == (1, 4, 1, 4)
    calc.reset()
    assert calc.get_potential_energy(cluster) == pytest.approx(energies[0], rel=1e-12)  # the second frame of the seed


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 6, 22])
def test_what_is_drawn_is_called_chance_and_never_round_off(cluster: Atoms, seed: int) -> None:
    """One structure has one pair of repeats, alike by chance (seeds 6, 22): the round trips are chance as well."""
    calc = TwirledCalculator(Well(), mode="random-frame", seed=seed)
    # About the origin, as the calculator rotates: a well that stays where it is is no function of the cluster alone.
    report = audit(calc, cluster, properties=["energy", "forces"], center="origin")
    assert report["energy"].verdict == report["forces"].verdict == "non-deterministic"
    assert any("draws new rotations at every call" in note for note in report.notes)


@pytest.mark.slow
def test_md_in_random_frames_claims_no_gradient(tmp_path: Path) -> None:
    notes = {}
    for mode, plan in (("random-frame", None), ("average", KLEIN)):
        calc = TwirledCalculator(Well(), plan, mode, properties=["energy", "forces"])
        run = {"steps": 4, "every": 2, "log": tmp_path / f"{mode}.csv", "progress": False}
        notes[mode] = " ".join(molecular_dynamics(calc, _moving(None), **run).notes)
    assert "there is no energy that the forces could be the gradient of" in notes["random-frame"]
    assert "not from the forces" not in notes["random-frame"]
    assert "the forces are the energy's gradient" in notes["average"]


def test_no_optimiser_converges_in_random_frames(cluster: Atoms) -> None:
    """A tug along the laboratory's axes averages to nothing over four rotations, and is a tug in each of them."""

    class Tugged(Well):
        def calculate(self, *args: Any) -> None:
            super().calculate(*args)
            self.results["forces"] = 0.2 - self.atoms.positions

    for mode, plan, converges in (("average", KLEIN, True), ("random-frame", None, False)):
        atoms = cluster.copy()
        atoms.calc = TwirledCalculator(Tugged(), plan, mode, properties=["energy", "forces"])
        assert BFGS(atoms, logfile=None).run(fmax=0.05, steps=40) == converges
        assert (abs(atoms.positions).max() < 0.05) == converges
