"""Files of a monitored run that are full, gone, damaged or somebody else's; and the worst frames in its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.md.bussi import Bussi
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS

from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import Report
from equiv_probe.results.worst_structures import colored_scene, in_3d
from equiv_probe_ase import SymmetryMonitor
from equiv_probe_ase.auditing.worst_structures import WORST_STRUCTURES
from equiv_probe_ase.dynamics import moving_atoms as watched_atoms
from equiv_probe_ase.dynamics.log_reading import read_equiv_probe_dynamics

from .monitored import TILT, LinearField, cluster, moving
from .test_monitor_log import rows_of, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_a_disk_that_comes_back_gets_all_rows(tmp_path: Path, kind: str) -> None:
    log = tmp_path / "disk" / f"log{kind}"
    atoms, dyn = moving(LinearField(TILT))
    monitor = SymmetryMonitor(dyn, atoms, every=2, log=log)
    dyn.run(2)
    (tmp_path / "disk").rename(tmp_path / "away")
    with pytest.warns(UserWarning, match="could not be written at step 4"):
        dyn.run(4)
    (tmp_path / "away").rename(tmp_path / "disk")
    with log.open("a") as file:
        file.write("half a ro")  # as a disk leaves it that was full in the middle of a line
    dyn.run(2)
    assert [row["step"] for row in rows_of(log)] == [0, 2, 4, 6, 8]
    assert any("could not be written at step 4" in note for note in monitor.report().notes)
    assert dyn.nsteps == 8


def test_a_full_disk_does_not_end_the_run(tmp_path: Path) -> None:
    atoms, dyn = moving(LinearField(TILT))
    log, frames = tmp_path / "log.csv", tmp_path / "seen.extxyz"
    monitor = SymmetryMonitor(dyn, atoms, every=2, log=log, trajectory=frames)
    dyn.run(2)
    for path in (log, frames):
        path.unlink()
        path.symlink_to("/dev/full")
    with pytest.warns(UserWarning, match="No space left"):
        dyn.run(4)
    notes = " ".join(monitor.report().notes)
    assert "the log could not be written at step 4" in notes
    assert "the frame of step 6 was not written" in notes
    assert len(monitor.report().structures) == 4


@pytest.mark.slow
def test_damaged_logs_are_explained(tmp_path: Path) -> None:
    for kind, line in ((".csv", "1,2,3"), (".jsonl", '{"step": 5, "ti'), (".jsonl", "[1]"), (".jsonl", "{}")):
        log = tmp_path / f"log{kind}"
        atoms, _ = run(log, 20)
        lines = log.read_text().split("\n")
        lines[2 if kind == ".jsonl" else 3] = line
        log.write_text("\n".join(lines))
        with pytest.raises(EquivProbeError, match=rf"whose line {3 if kind == '.jsonl' else 4} is no row"):
            run(log, 5, atoms.copy(), resume=True)
        assert log.read_text() == "\n".join(lines)
        log.unlink()
    with (tmp_path / "bad.jsonl").open("w+") as file:
        file.write('{"equiv_probe_dynamics": 1}\n{"step"\n')
        file.seek(0)
        with pytest.raises(EquivProbeError, match="line 2 of the log"):
            read_equiv_probe_dynamics(file)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\n" * 20)
    with pytest.raises(EquivProbeError, match="no log of a trajectory"):
        run(binary, 5, resume=True)


def test_a_log_torn_in_its_first_line_is_started_over(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    run(log, 5)
    log.write_text(log.read_text()[:60])
    run(log, 10, resume=True)
    assert [row["step"] for row in rows_of(log)] == [0, 5, 10]


@pytest.mark.slow
def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text("molecule,energy\nwater,1\n")
    with pytest.raises(EquivProbeError, match="no log of a trajectory"):
        run(table, 5)
    assert table.read_text().startswith("molecule")

    data = tmp_path / "data.extxyz"
    ase.io.write(data, [molecule("H2O"), molecule("CH4")])
    with pytest.raises(EquivProbeError, match="frames of a monitor"):
        run(tmp_path / "log.csv", 5, trajectory=data)
    assert len(ase.io.read(data, ":")) == 2

    atoms = cluster()
    atoms.calc = LinearField(TILT)
    dyn = VelocityVerlet(atoms, 0.5 * units.fs, trajectory=str(tmp_path / "md.traj"))
    SymmetryMonitor(dyn, atoms, log=None, trajectory=tmp_path / "md.traj")
    with pytest.raises(EquivProbeError, match="the dynamics' own trajectory"):
        dyn.run(2)
    for name in ("frames.cif", "frames"):
        with pytest.raises(EquivProbeError, match=r"ends in \.extxyz"):
            SymmetryMonitor(dyn, atoms, log=None, trajectory=tmp_path / name)


@pytest.mark.slow
def test_two_monitors_do_not_write_into_one_log(tmp_path: Path) -> None:
    atoms, dyn = moving(LinearField(TILT))
    first, second = (SymmetryMonitor(dyn, atoms, every=n, log=tmp_path / "log.csv") for n in (1, 2))
    with pytest.warns(UserWarning, match=r"started over|has started the log"):
        dyn.run(4)
    assert [row["step"] for row in rows_of(tmp_path / "log.csv")] == [0, 2, 4]
    assert any("another monitor has started the log" in note for note in first.report().notes)
    assert len(first.log.rows) == 5
    assert not second.log.notes

    optimiser = BFGS(atoms, logfile=None)
    SymmetryMonitor(optimiser, atoms, every=1, log=tmp_path / "log.csv")
    with pytest.warns(UserWarning, match="pass log= to keep both"):
        optimiser.run(steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".extxyz", ".traj"])
def test_frames_beyond_the_checkpoint_are_dropped_with_their_rows(tmp_path: Path, suffix: str) -> None:
    seen = tmp_path / "new" / f"seen{suffix}"
    atoms, _ = run(tmp_path / "log.csv", 20, trajectory=seen)
    run(tmp_path / "log.csv", 10, atoms.copy(), trajectory=seen, resume=True, first_step=10)
    assert [int(frame.info["equiv_step"]) for frame in ase.io.read(seen, ":")] == [0, 5, 10, 15, 20]
    run(tmp_path / "log.csv", 5, trajectory=seen)
    assert [int(frame.info["equiv_step"]) for frame in ase.io.read(seen, ":")] == [0, 5]


def test_time_goes_on_over_steps_that_were_not_logged(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    atoms, _ = run(log, 23)
    run(log, 10, atoms.copy(), resume=True, first_step=23)
    rows = rows_of(log)
    assert [row["step"] for row in rows] == [0, 5, 10, 15, 20, 25, 30]
    np.testing.assert_allclose([row["time_fs"] for row in rows], [0.5 * row["step"] for row in rows])


def test_what_is_not_the_dynamics_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, dyn = moving(LinearField(TILT))
    other = cluster(1)
    other.calc = LinearField(TILT)
    with pytest.raises(EquivProbeError, match="not those that VelocityVerlet moves"):
        SymmetryMonitor(dyn, other, log=None)
    with pytest.raises(EquivProbeError, match="no atoms to watch"):
        SymmetryMonitor(VelocityVerlet(Atoms(), units.fs), log=None)
    for every in (2.5, 0, -1):
        with pytest.raises(EquivProbeError, match="a number of steps"):
            SymmetryMonitor(dyn, atoms, every=every, log=None)  # type: ignore[arg-type]
    with pytest.raises(EquivProbeError, match="conservative_every=-1"):
        SymmetryMonitor(dyn, atoms, conservative_every=-1, log=None)

    class Old:
        def __init__(self) -> None:
            self.field = LinearField(TILT)

        def get_forces(self, atoms: Any) -> Any:
            return self.field.get_forces(atoms)

    atoms.calc = Old()
    SymmetryMonitor(dyn, atoms, log=None)
    with pytest.raises(EquivProbeError, match="without implemented_properties"):
        dyn.run(1)

    class Several:
        size = 4

    monkeypatch.setattr(watched_atoms, "world", Several())
    with pytest.raises(EquivProbeError, match="4 MPI processes"):
        SymmetryMonitor(dyn, atoms, log=None)


def test_one_image_of_a_band() -> None:
    """A band is refused; one of its images is watched, and the reason says how."""
    images = [molecule("H2O") for _ in range(3)]
    images[2].positions += [0.0, 0.0, 0.3]
    for image in images:
        image.calc = EMT()
    dyn = BFGS(NEB(images, method="improvedtangent"), logfile=None)
    with pytest.raises(EquivProbeError, match="of a band one image"):
        SymmetryMonitor(dyn, log=None)
    monitor = SymmetryMonitor(dyn, images[1], every=1, log=None)
    dyn.run(steps=2)
    assert len(monitor.report().structures) == 3
    assert monitor.report()["forces"].verdict == "round-off"


def test_a_thermostat_that_is_a_child_of_verlet_has_no_drift() -> None:
    atoms = Atoms("Ar4", 3.7 * np.array([[0, 0, 0], [1, 0, 0.1], [0, 1.1, 0], [0.2, 0, 1]]))
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)))
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=12.0)
    dyn = Bussi(atoms, 5 * units.fs, 300, 50 * units.fs, rng=np.random.RandomState(1))
    monitor = SymmetryMonitor(dyn, atoms, every=2, log=None)
    dyn.run(10)
    notes = " ".join(monitor.report().notes)
    assert "total energy:" not in notes
    assert "(Bussi: what acts beside the model's forces)" in notes


@pytest.mark.slow
@pytest.mark.parametrize("resumed", [False, True])
def test_the_worst_frames_are_shown_in_three_dimensions(tmp_path: Path, resumed: bool) -> None:
    """A page gets the geometries of the frames with the largest errors, and each atom's error on them."""
    log = tmp_path / "log.jsonl"
    positions = {}
    atoms, dyn = moving(LinearField(TILT))
    monitor = SymmetryMonitor(dyn, atoms, every=1, conservative_every=0, log=log)
    dyn.attach(lambda: positions.update({dyn.nsteps: atoms.positions.copy()}))
    dyn.run(30)
    if resumed:
        atoms = atoms.copy()
        atoms.calc = LinearField(TILT)
        dyn = VelocityVerlet(atoms, 0.5 * units.fs)
        monitor = SymmetryMonitor(dyn, atoms, every=1, conservative_every=0, log=log, resume=True)
        dyn.run(1)
    monitor.report().save(tmp_path / "report.json")
    report = Report.load(tmp_path / "report.json")
    found = [record for record in report.structures if "geometry" in record]
    assert len(report.structures) == (32 if resumed else 31)
    for name in ("energy", "forces"):
        ranked = sorted(report.structures, key=lambda record: -record["quantities"][name]["rms"])
        assert all("geometry" in record for record in ranked[:WORST_STRUCTURES])
    assert WORST_STRUCTURES <= len(found) <= 2 * WORST_STRUCTURES
    assert [r for r in report.structures if "per_atom" in r["quantities"]["forces"]] == found
    for record in found:
        if record["index"] in positions:
            np.testing.assert_allclose(record["geometry"]["positions"], positions[record["index"]], atol=1e-4)
        roots = np.array(record["quantities"]["forces"]["per_atom"])
        assert np.sqrt(np.mean(roots**2)) == pytest.approx(record["quantities"]["forces"]["rms"], rel=1e-2)
    drawn = colored_scene(report.measured, in_3d(report.structures, "forces"))
    assert drawn is not None
    assert len(drawn["structures"]) == len(found)


@pytest.mark.slow
def test_memory_does_not_grow_by_atoms(tmp_path: Path) -> None:
    """Rows and records that are kept hold numbers of the structure as a whole, except for the worst frames."""
    atoms, dyn = moving(LinearField(TILT))
    monitor = SymmetryMonitor(dyn, atoms, every=1, conservative_every=0, log=tmp_path / "log.jsonl")
    dyn.run(30)
    assert not any("frame" in row or "record" in row for row in monitor.log.rows)
    assert not any("per_atom" in record["quantities"]["forces"] for record in monitor._records)
