"""Runs that do not go smoothly: atoms moved in between, calculators changed or shared, forces missing, steps broken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from ase.calculators.lj import LennardJones

from equiv_probe_ase import SymmetryMonitor
from equiv_probe_ase.calculators.private_copy import own_copy

from .monitored import SPIN, TILT, LinearField, angular_momentum, cluster, moving

if TYPE_CHECKING:
    from ase.md.verlet import VelocityVerlet


def watched(calculator: Any, **options: Any) -> tuple[Any, VelocityVerlet, SymmetryMonitor]:
    atoms, dyn = moving(calculator)
    return atoms, dyn, SymmetryMonitor(dyn, atoms, every=2, **{"log": None, "conservative_every": 0, **options})


def words(monitor: SymmetryMonitor) -> str:
    return " ".join(monitor.report().notes)


@pytest.mark.slow
@pytest.mark.parametrize("meddle", ["heated", "moved", "scaled"])
def test_what_is_done_between_two_runs_is_not_the_models_doing(meddle: str) -> None:
    atoms, dyn, monitor = watched(LinearField(TILT))
    dyn.run(10)
    if meddle == "heated":
        atoms.set_momenta(np.random.default_rng(1).normal(size=(5, 3)))
    elif meddle == "moved":
        atoms.rattle(0.1, seed=3)
    else:
        atoms.set_momenta(1.01 * atoms.get_momenta())
    dyn.run(10)
    # One step, of which the beginning is not known, is left out; the energy jumps by 0.01 eV and more.
    assert monitor.budget.gaps == 1
    assert np.linalg.norm(monitor.budget.remainder) < 1e-12
    assert abs(monitor.budget.energy) < 1e-3
    assert monitor.budget.time == pytest.approx(10.0)
    assert "the atoms were moved, heated or stopped by something else before step 11" in words(monitor)
    assert "1 of 20 steps are not in the budget" in words(monitor)


@pytest.mark.slow
@pytest.mark.parametrize("single", [False, True])
def test_runs_that_only_go_on_lose_no_step(single: bool) -> None:
    """In single precision too: positions follow from the forces that the integrator was given."""

    class Single(LinearField):
        def calculate(self, *args: Any, **kwargs: Any) -> None:
            super().calculate(*args, **kwargs)
            if single:
                self.results["forces"] = self.results["forces"].astype(np.float32)

    atoms, dyn, monitor = watched(Single(TILT + SPIN))
    before = angular_momentum(atoms)
    for _ in range(10):
        dyn.run(3)
    dyn.run(0)
    assert (monitor.budget.gaps, monitor.budget.instants) == (0, 31)
    np.testing.assert_allclose(monitor.budget.angular, angular_momentum(atoms) - before, atol=1e-9)
    assert "rounding" in words(monitor)


def test_a_broken_step_is_not_called_rounding() -> None:
    class Fails(LinearField):
        def calculate(self, *args: Any, **kwargs: Any) -> None:
            super().calculate(*args, **kwargs)
            if self is calculator and self.calls == 4:
                raise RuntimeError("not converged")

    calculator = Fails(TILT)
    _, dyn, monitor = watched(calculator)
    with pytest.raises(RuntimeError, match="not converged"):
        dyn.run(6)
    dyn.run(4)
    assert np.linalg.norm(monitor.budget.remainder) > 0.1  # half a kick
    assert "a step was broken off" in words(monitor)
    assert "velocity Verlet: rounding" not in words(monitor)


@pytest.mark.slow
def test_steps_whose_forces_were_overwritten_are_gaps() -> None:
    """Two structures share a calculator, and an observer asks for the other one's forces at every third step."""
    atoms, dyn = moving(LinearField(TILT))
    other = cluster(1)
    other.calc = atoms.calc
    dyn.attach(other.get_forces, 3)
    monitor = SymmetryMonitor(dyn, atoms, every=2, conservative_every=0, log=None)
    dyn.run(8)  # unknown at 0, 3 and 6: the steps to and from them
    assert (monitor.budget.instants, monitor.budget.known, monitor.budget.gaps) == (9, 6, 5)
    assert np.linalg.norm(monitor.budget.remainder) < 1e-12
    assert np.linalg.norm(monitor.budget.angular) > 1
    assert monitor.budget.torque == pytest.approx(2.4, rel=0.1)
    assert "5 of 8 steps are not in the budget" in words(monitor)
    assert "3 times the calculator had no finite forces" in words(monitor)


def test_a_run_that_blows_up_keeps_the_budget_of_before() -> None:
    class Explodes(LinearField):
        def calculate(self, *args: Any, **kwargs: Any) -> None:
            super().calculate(*args, **kwargs)
            if self is calculator and self.calls > 4:
                self.results = {"energy": np.nan, "forces": np.full((5, 3), np.nan)}

    calculator = Explodes(TILT)
    _, dyn, monitor = watched(calculator)
    with pytest.warns(UserWarning, match="step 6: EquivProbeError"):
        dyn.run(8)
    assert monitor.budget.known == 4
    assert np.linalg.norm(monitor.budget.remainder) < 1e-12
    assert np.isfinite(monitor.budget.energy)
    assert len(monitor.report().failures) == 2
    assert "velocity Verlet: rounding" in words(monitor)
    assert "5 times the calculator had no finite forces" in words(monitor)


@pytest.mark.slow
def test_energy_that_is_known_at_some_steps_only() -> None:
    class Sometimes(LinearField):
        def calculate(self, *args: Any, **kwargs: Any) -> None:
            super().calculate(*args, **kwargs)
            if self is calculator and self.calls % 2 == 0:
                del self.results["energy"]

    calculator = Sometimes(TILT)
    atoms, dyn, monitor = watched(calculator)
    energies = []
    dyn.attach(lambda: energies.append(monitor.budget.last.total))
    dyn.run(8)
    assert np.isnan(energies[1::2]).all()
    assert monitor.budget.energy == pytest.approx(energies[-1] - energies[0], abs=1e-12)
    assert atoms.calc.calls == 9


@pytest.mark.slow
def test_another_calculator_in_mid_run_is_seen() -> None:
    class ForcesOnly(LinearField):
        implemented_properties: ClassVar[list[str]] = ["forces"]

        def calculate(self, *args: Any, **kwargs: Any) -> None:
            super().calculate(*args, **kwargs)
            del self.results["energy"]

    atoms, dyn, monitor = watched(LinearField(TILT))
    dyn.run(4)
    atoms.calc = ForcesOnly(2 * TILT)
    dyn.run(4)
    assert "another calculator, ForcesOnly, moves the atoms from step 5" in words(monitor)
    assert monitor.budget.gaps == 1
    assert np.linalg.norm(monitor.budget.remainder) < 1e-12
    report = monitor.report()
    assert not report.failures
    assert [sorted(record["quantities"]) for record in report.structures] == 3 * [["energy", "forces"]] + 2 * [
        ["forces"]
    ]
    assert {one.name for one in report.measured} == {"energy", "forces"}

    atoms, dyn, monitor = watched(LinearField(TILT))
    dyn.run(4)
    atoms.calc = LennardJones(sigma=1.0, rc=5.0)
    dyn.run(4)
    assert abs(monitor.budget.energy) < 1  # not the difference of two models' energies, 10⁷ eV


def test_a_free_energy_that_is_promised_but_not_given() -> None:
    class Promises(LinearField):
        implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    _, dyn, monitor = watched(Promises(TILT), conservative_every=2)
    dyn.run(4)
    assert "the forces are the energy's gradient" in words(monitor)
    assert sorted(monitor.quantities) == ["energy", "forces"]


def test_an_interrupted_run_goes_on() -> None:
    _, dyn, monitor = watched(LinearField(TILT))

    def interrupt() -> None:
        if dyn.nsteps == 3 and monitor.budget.instants == 4 and dyn.max_steps == 6:
            raise KeyboardInterrupt

    dyn.attach(interrupt)
    with pytest.raises(KeyboardInterrupt):
        dyn.run(6)
    dyn.run(5)
    assert [row["step"] for row in monitor.log.rows] == [0, 2, 4, 6, 8]
    assert np.linalg.norm(monitor.budget.remainder) < 1e-12


def test_a_copied_calculator_is_a_whole_copy() -> None:
    """Of many attributes too: what one attempt remembered must not be taken for what another copies."""

    class State:
        def __init__(self, number: int) -> None:
            self.number, self.data = number, {"values": np.full(3, number)}

    class Locked:
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("a handle")

    for _ in range(20):
        original: Any = LinearField(TILT)
        for i in range(30):
            setattr(original, f"part_{i}", [State(i), {"deep": State(-i)}, SimpleNamespace(value=i)])
            setattr(original, f"handle_{i}", [State(i), Locked()])
        twin: Any
        twin, shared = own_copy(original)
        assert shared == [f"LinearField.handle_{i}" for i in range(30)]
        for i in range(30):
            first, second, third = getattr(twin, f"part_{i}")
            assert (first.number, second["deep"].number, third.value) == (i, -i, i)
            assert first.data["values"].tolist() == [i] * 3
            assert first.data["values"] is not getattr(original, f"part_{i}")[0].data["values"]


@pytest.mark.slow
def test_a_program_runs_in_a_folder_of_its_own(tmp_path: Any) -> None:
    """Rotated copies must not overwrite the files of the dynamics, from which its next step may start."""
    from ase.calculators.calculator import FileIOCalculator

    class Program(FileIOCalculator):  # type: ignore[misc]
        implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

        def write_input(self, atoms: Any, properties: Any = None, system_changes: Any = None) -> None:
            super().write_input(atoms, properties, system_changes)
            folders.append(self.directory)
            np.save(f"{self.directory}/{self.prefix}.npy", atoms.positions)

        def read_results(self) -> None:
            x = np.load(f"{self.directory}/{self.prefix}.npy")
            self.results = {"energy": 0.5 * float(np.einsum("ni,ij,nj", x, TILT, x)), "forces": -x @ TILT.T}

    folders: list[str] = []
    own = str(tmp_path / "work")
    atoms, dyn = moving(Program(directory=own, label="job", command="true"))
    monitor = SymmetryMonitor(dyn, atoms, every=1, conservative_every=1, log=None)
    dyn.attach(lambda: np.testing.assert_array_equal(np.load(f"{own}/job.npy"), atoms.positions))
    dyn.run(2)
    assert folders.count(own) == 3
    assert len(folders) > 50
    plain_atoms, plain = moving(LinearField(TILT))
    same = SymmetryMonitor(plain, plain_atoms, every=1, conservative_every=1, log=None)
    plain.run(2)
    assert monitor.report()["forces"].equiv == pytest.approx(same.report()["forces"].equiv, rel=1e-12)
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
