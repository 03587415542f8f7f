"""The monitor on real dynamics: right numbers, and a trajectory that does not notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import Report
from equiv_probe_ase import SymmetryMonitor, make_calculator

from .monitored import SPIN, TILT, TRANSFORMER, LinearField, cluster, crystal, molecule_in_motion, moving

if TYPE_CHECKING:
    from pathlib import Path

    from equiv_probe.testing import QuadraticEnergy


@pytest.mark.slow
def test_the_twirl_of_every_frame_in_closed_form(planted: Any, quadratic: QuadraticEnergy) -> None:
    atoms = molecule_in_motion("H2O")
    atoms.calc = planted(quadratic, names=["energy", "forces"])
    dyn = VelocityVerlet(atoms, 0.3 * units.fs)
    # Four icosahedral replicates average degree 2 exactly: the twirl and its L_equiv are right to rounding.
    monitor = SymmetryMonitor(dyn, atoms, every=5, plan=ep.RotationPlan("icosahedral", 4), log=None)
    known: list[dict[str, float]] = []

    def reference() -> None:
        x = torch.from_numpy(atoms.positions.copy())
        power = quadratic.power(x)
        known.append(
            {
                "energy": float(quadratic.twirl(x)["energy"]),
                "energy_L": sum(power["energy"].values()) * 1e6 / len(atoms) ** 2,
                "forces_L": sum(power["forces"].values()) * 1e6,
            }
        )

    dyn.attach(reference, 5)
    dyn.run(20)
    rows = monitor.log.rows
    assert [row["step"] for row in rows] == [0, 5, 10, 15, 20]
    for row, true in zip(rows, known, strict=True):
        assert row["energy_twirl_eV"] == pytest.approx(true["energy"], rel=1e-12)
        assert row["energy_twirl_stderr_eV"] < 1e-12
        assert row["energy_L_equiv"] == pytest.approx(true["energy_L"], rel=1e-9)
        assert row["forces_L_equiv"] == pytest.approx(true["forces_L"], rel=1e-9)
        # Not the identity's: the twirl is another number.
        assert abs(row["potential_eV"] - row["energy_twirl_eV"]) > 1e-3
        # Degree 2 only: the bound A/2 = l(l+1)/2 L_equiv is three times the variance.
        assert row["energy_torque_bound_meV_per_atom"] ** 2 == pytest.approx(3 * row["energy_L_equiv"], rel=1e-9)


@pytest.mark.slow
def test_error_bars_of_the_twirl_cover(planted: Any, quadratic: QuadraticEnergy) -> None:
    """Independent rotations: the twirled energy scatters about the truth by about one standard error."""
    atoms = molecule_in_motion("H2O")
    atoms.calc = planted(quadratic, names=["energy", "forces"])
    true = float(quadratic.twirl(torch.from_numpy(atoms.positions))["energy"])
    dyn = VelocityVerlet(atoms, 1e-9 * units.fs)  # the same structure again and again, other rotations each time
    monitor = SymmetryMonitor(dyn, atoms, every=1, plan=ep.RotationPlan("haar", 16), conservative_every=0, log=None)
    dyn.run(79)
    scores = [(row["energy_twirl_eV"] - true) / row["energy_twirl_stderr_eV"] for row in monitor.log.rows]
    # Student's t with 15 degrees of freedom has a deviation of 1.07; 80 draws know it to 8 %.
    assert np.std(scores) == pytest.approx(1.07, abs=0.3)
    assert abs(np.mean(scores)) < 0.4


def test_stress_of_a_crystal_and_atoms_inside_a_filter(planted: Any, quadratic: QuadraticEnergy) -> None:
    atoms = crystal()
    atoms.calc = planted(quadratic)
    dyn = FIRE(FrechetCellFilter(atoms), logfile=None)
    monitor = SymmetryMonitor(dyn, every=2, log=None)
    dyn.run(steps=4)
    assert monitor.atoms is atoms
    report = monitor.report()
    # The average of 7/60 ‖B₂‖² over six Voigt components in the full tensor: 2/15 and 1/10 weigh 3 and 6 of nine.
    deviator = quadratic.stress - torch.eye(3) * quadratic.stress.trace() / 3
    expected = 1e3 * float((deviator.square().sum() / 9).sqrt())
    assert report["stress"].rms == pytest.approx(expected, rel=0.1)
    assert report.history[0]["stage"] == "optimisation"
    assert np.isnan(monitor.log.rows[-1]["time_fs"])
    assert monitor.log.rows[-1]["momentum_change_x_eV_fs_per_A"] == 0


@pytest.mark.slow
def test_models_at_round_off_and_one_that_is_not() -> None:
    pytest.importorskip("tblite", reason="tblite is not installed")
    found = {}
    for name in ("gfn2-xtb", TRANSFORMER):
        atoms = molecule_in_motion("CH3OH")
        atoms.calc = make_calculator(name)
        dyn = VelocityVerlet(atoms, 0.5 * units.fs)
        monitor = SymmetryMonitor(dyn, atoms, every=10, conservative_every=10, log=None)
        dyn.run(20)
        found[name] = monitor
    exact, broken = found["gfn2-xtb"], found[TRANSFORMER]
    assert {m.name: m.verdict for m in exact.report().measured} == {"energy": "round-off", "forces": "round-off"}
    assert exact.budget.torque < 1e-4  # eV: self-consistent to 1e-6 Hartree or so
    assert "the forces are the energy's gradient" in " ".join(exact.report().notes)
    assert {m.name: m.verdict for m in broken.report().measured} == {"energy": "broken", "forces": "broken"}
    assert broken.budget.torque > 0.1
    assert np.linalg.norm(broken.budget.angular) > 1e-3
    assert np.linalg.norm(broken.budget.remainder) < 1e-10
    assert "the forces are not the energy's gradient" in " ".join(broken.report().notes)


def test_the_report_is_saved_and_read_with_its_history(tmp_path: Path) -> None:
    atoms, dyn = moving(LinearField(TILT))
    monitor = SymmetryMonitor(dyn, atoms, every=4, log=None, name="planted")
    dyn.run(10)
    monitor.report().save(tmp_path / "report.json")
    report = Report.load(tmp_path / "report.json")
    assert report.model == "planted"
    assert [(entry["stage"], entry["step"]) for entry in report.history] == [("md", s) for s in (0, 4, 8, 10)]
    assert report.history[-1]["time_fs"] == pytest.approx(5.0)
    assert [record["name"] for record in report.structures] == ["step 0", "step 4", "step 8"]
    assert "gradient" not in " ".join(report.blind_spots)  # it was looked at
    assert "forces" in str(report)


def test_measured_values_in_a_trajectory_that_ase_reads(tmp_path: Path) -> None:
    atoms, dyn = moving(LinearField(TILT))
    monitor = SymmetryMonitor(dyn, atoms, every=5, log=None, trajectory=tmp_path / "seen.extxyz", annotate=True)
    dyn.run(10)
    frames = ase.io.read(tmp_path / "seen.extxyz", ":")
    assert [frame.info["equiv_step"] for frame in frames] == [0, 5, 10]
    for frame, row in zip(frames, monitor.log.rows, strict=True):
        assert frame.info["equiv_forces_rms_meV_per_A"] == pytest.approx(row["forces_rms_meV_per_A"], rel=1e-6)
        assert frame.get_potential_energy() == pytest.approx(row["potential_eV"], abs=1e-6)
    assert atoms.info["equiv_step"] == 10
    np.testing.assert_allclose(frames[-1].positions, atoms.positions, atol=1e-7)


@pytest.mark.slow
def test_a_frame_that_fails_is_noted_and_the_run_goes_on() -> None:
    class Fragile(LinearField):
        def calculate(self, atoms: Any = None, *rest: Any) -> None:
            if atoms.info.get("poison"):
                raise RuntimeError("no more")
            super().calculate(atoms, *rest)

    atoms, dyn = moving(Fragile(TILT))
    monitor = SymmetryMonitor(dyn, atoms, every=2, log=None)

    def poison() -> None:  # copies carry the info along; the dynamics has its results already
        atoms.info["poison"] = dyn.nsteps == 4

    dyn.insert_observer(poison)
    dyn.attach(atoms.info.clear)
    with pytest.warns(UserWarning, match="step 4: RuntimeError: no more"):
        dyn.run(6)
    report = monitor.report()
    assert [record["name"] for record in report.structures] == ["step 0", "step 2", "step 6"]
    assert report.failures == [{"name": "step 4", "error": "RuntimeError: no more"}]
    assert monitor.budget.instants == 7

    atoms, dyn = moving(Fragile(TILT))
    SymmetryMonitor(dyn, atoms, log=None)
    dyn.insert_observer(poison)
    atoms.info["poison"] = False
    atoms.get_forces()
    atoms.info["poison"] = True
    with pytest.raises(RuntimeError, match="no more"):
        SymmetryMonitor(dyn, atoms, log=None)()


def test_what_cannot_be_watched_is_said() -> None:
    atoms, dyn = moving(LinearField(TILT + SPIN))
    with pytest.raises(EquivProbeError, match="every=0"):
        SymmetryMonitor(dyn, atoms, every=0)
    with pytest.raises(EquivProbeError, match="two randomly rotated replicates"):
        SymmetryMonitor(dyn, atoms, plan=ep.RotationPlan("klein", 1))
    with pytest.raises(EquivProbeError, match=r"ends in \.csv or \.jsonl"):
        SymmetryMonitor(dyn, atoms, log="monitor.txt")
    with pytest.raises(EquivProbeError, match="a list to watch"):
        SymmetryMonitor(dyn, [cluster()])  # type: ignore[arg-type]
    assert not dyn.observers


def test_it_can_be_detached() -> None:
    atoms, dyn = moving(LinearField(TILT))
    monitor = SymmetryMonitor(dyn, atoms, every=1, log=None)
    dyn.run(2)
    monitor.detach()
    dyn.run(2)
    assert [row["step"] for row in monitor.log.rows] == [0, 1, 2]


class Nothing(EMT):
    """Energy and forces of zero, whatever the atoms do."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        self.results |= {"energy": 0.0, "free_energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}


@pytest.mark.parametrize(
    ("calculator", "atoms", "state"),
    [(EMT(), molecule("CH4"), "passed"), (Nothing(), molecule("CH4"), "FAILED"), (EMT(), Atoms("Cu"), "FAILED")],
)
def test_zeros_of_a_trajectory_are_earned(calculator: Any, atoms: Atoms, state: str) -> None:
    """A sound model beside one that gives nothing, and an atom alone, which has no orientation."""
    atoms = atoms.copy()
    atoms.calc = calculator
    atoms.rattle(0.05, seed=0)
    atoms.set_momenta(np.random.default_rng(0).standard_normal((len(atoms), 3)))
    dyn = VelocityVerlet(atoms, 0.5 * units.fs)
    monitor = SymmetryMonitor(dyn, every=4, log=None, progress=False)
    dyn.run(12)
    report = monitor.report()
    assert {one.name: one.state for one in report.controls}["sees the rotation"] == state
    assert report["forces"].verdict == ("round-off" if state == "passed" else "unknown")
    assert ("Not to be believed" in str(report)) == (state == "FAILED")
