"""The monitor's log: what is in it, that it goes on after a restart, and that it is not mixed with another run's."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path  # noqa: TC003 - pytest resolves annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase import SymmetryMonitor, audit
from equiv_probe_ase.dynamics.log import COLUMNS, DynamicsLog

from .monitored import TILT, LinearField, cluster, moving

KINDS = [".csv", ".jsonl"]


def rows_of(path: Path) -> list[dict[str, float]]:
    head, *lines = path.read_text().splitlines()
    assert json.loads(head.removeprefix("# "))["equiv_probe_dynamics"] == 1
    if path.suffix == ".jsonl":
        return [{k: v for k, v in json.loads(line).items() if isinstance(v, (int, float))} for line in lines]
    reader = csv.DictReader(io.StringIO("\n".join(lines)))
    return [{name: float(value) for name, value in row.items() if value} for row in reader]


def run(
    log: Path, steps: int, atoms: Atoms | None = None, step: float = 0.5, **options
) -> tuple[Atoms, SymmetryMonitor]:
    atoms = cluster() if atoms is None else atoms
    atoms.calc = LinearField(TILT)
    dyn = VelocityVerlet(atoms, step * units.fs)
    monitor = SymmetryMonitor(dyn, atoms, every=5, conservative_every=10, log=log, **options)
    dyn.run(steps)
    return atoms, monitor


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_restarted_run_has_the_log_of_one_that_was_not(tmp_path: Path, kind: str) -> None:
    run(tmp_path / f"whole{kind}", 40)
    half, _ = run(tmp_path / f"parts{kind}", 20)
    _, monitor = run(tmp_path / f"parts{kind}", 20, half.copy(), resume=True)
    whole, parts = rows_of(tmp_path / f"whole{kind}"), rows_of(tmp_path / f"parts{kind}")
    assert [row["step"] for row in parts] == [0, 5, 10, 15, 20, 25, 30, 35, 40]
    for a, b in zip(whole, parts, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            # CSV has twelve digits; the trajectory itself goes on bit for bit; floors are noise.
            assert b[name] == pytest.approx(a[name], rel=1e-9, abs=1e-9), name
    report = monitor.report()
    assert [entry["step"] for entry in report.history] == [row["step"] for row in whole]
    assert report.history[-1]["time_fs"] == pytest.approx(20.0)
    assert any("continued at step 20" in note for note in report.notes)
    assert len(report.structures) == (9 if kind == ".jsonl" else 4)  # JSON lines keep the frames' records


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_after_a_kill_rows_beyond_the_checkpoint_and_a_torn_line_are_dropped(tmp_path: Path, kind: str) -> None:
    log = tmp_path / f"log{kind}"
    atoms, _ = run(log, 20)
    with log.open("a") as file:
        file.write('{"step": 25' if kind == ".jsonl" else "25,12.5,")
    run(log, 10, atoms.copy(), resume=True)
    assert [row["step"] for row in rows_of(log)] == [0, 5, 10, 15, 20, 25, 30]
    run(log, 10, atoms.copy(), resume=True, first_step=10)  # from a checkpoint before
    assert [row["step"] for row in rows_of(log)] == [0, 5, 10, 15, 20]


def test_a_resumed_dynamics_that_counts_on_is_believed(tmp_path: Path) -> None:
    atoms, _ = run(tmp_path / "log.csv", 20)
    atoms = atoms.copy()
    atoms.calc = LinearField(TILT)
    dyn = VelocityVerlet(atoms, 0.5 * units.fs)
    dyn.nsteps = 20
    SymmetryMonitor(dyn, atoms, every=5, conservative_every=10, log=tmp_path / "log.csv", resume=True)
    dyn.run(10)
    assert [row["step"] for row in rows_of(tmp_path / "log.csv")] == [0, 5, 10, 15, 20, 25, 30]


def test_without_resume_it_starts_over_and_a_second_run_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    run(log, 20)
    atoms, dyn = moving(LinearField(TILT))
    SymmetryMonitor(dyn, atoms, every=5, log=log)
    dyn.run(5)
    dyn.run(5)
    assert [row["step"] for row in rows_of(log)] == [0, 5, 10]


@pytest.mark.slow
def test_the_log_of_another_run_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    run(log, 5)
    before = log.read_text()
    with pytest.raises(EquivProbeError, match=r"another run \(timestep_fs: 0.5 → 1.0\)"):
        run(log, 5, step=1.0, resume=True)
    assert log.read_text() == before
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(EquivProbeError, match="no log of a trajectory"):
        run(tmp_path / "mine.csv", 5, resume=True)
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"


def test_numpy_and_pandas_conventions(tmp_path: Path) -> None:
    """One comment, one line of names, empty cells: readers of CSV need no more."""
    log = tmp_path / "log.csv"
    run(log, 10)
    table = np.genfromtxt(log, delimiter=",", names=True, skip_header=1)
    assert table.dtype.names == tuple(COLUMNS)
    np.testing.assert_allclose(table["time_fs"], [0, 2.5, 5])
    assert np.isnan(table["stress_L_equiv"]).all()
    assert np.isnan(table["defect_rms_meV_per_A"]).tolist() == [False, True, False]


def test_a_log_that_was_never_begun_is_empty(tmp_path: Path) -> None:
    log = DynamicsLog(tmp_path / "log.csv")
    assert log.rows == []
    assert not (tmp_path / "log.csv").exists()


@pytest.mark.slow
def test_an_audit_reads_trajectories(tmp_path: Path) -> None:
    """ASE's own trajectory and the monitor's, whose attached results are not taken for labels of another model."""
    atoms, dyn = moving(LinearField(TILT))
    with Trajectory(tmp_path / "md.traj", "w", atoms) as trajectory:
        dyn.attach(trajectory.write, 5)
        monitor = SymmetryMonitor(dyn, atoms, every=5, log=None, trajectory=tmp_path / "seen.extxyz")
        dyn.run(10)
    for name in ("md.traj", "seen.extxyz"):
        own, other = (
            audit(LinearField(matrix), str(tmp_path / name), plan=monitor.plan, center="origin")
            for matrix in (TILT, 1.1 * TILT)
        )
        assert len(own.structures) == len(other.structures) == 3
        assert own["forces"].verdict == other["forces"].verdict == "broken"
        # Its own outputs: against them all loss would be symmetry error.
        assert own["forces"].labelled is None
        assert other["forces"].labelled is not None
        assert other["forces"].labelled.mean > 0
    assert len(ase.io.read(tmp_path / "md.traj", ":")) == 3
