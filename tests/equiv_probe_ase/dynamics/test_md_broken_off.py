"""``equiv-probe md`` where something goes wrong: one line that says what, and a report of what there is."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import Report
from equiv_probe_ase.dynamics.interruption import BrokenOffError
from equiv_probe_ase.dynamics.molecular_dynamics import molecular_dynamics

from ... import warm_processes
from .monitored import TILT, Breaks, LinearField
from .test_monitor_log import rows_of
from .test_monitor_md import FIELD, equiv_probe, folder  # noqa: F401 - a fixture

BREAKS = FIELD.replace("tilted_field", "Breaks")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", "found RuntimeError: not converged in 100 cycles, after 6 steps; expected energy and forces"),
        ("exits", "found SystemExit: 3, after 6 steps"),
        ("nan", "found NaN or infinite forces of O1, after 7 steps; expected finite ones. Fix: a shorter time step"),
    ],
)
def test_a_run_that_breaks_off_reports_what_there_is(
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: str,
    words: str,
) -> None:
    run = ["md", f"{BREAKS}?at=8&how={how}", "methanol.xyz", "--every", "5", "--steps", "50", "--traj", "md.traj"]
    assert equiv_probe(monkeypatch, *run, "-o", "log.csv", "--no-progress") == 1
    printed = capsys.readouterr()
    told = " ".join(printed.err.split())
    assert told.count("Error: found") == 1
    assert f"Error: {words}" in told
    assert "Traceback" not in told
    if how == "raises":
        assert told.endswith("--resume goes on from the last frame of md.traj")
    report = Report.load("log.json")
    assert not report.complete
    assert [entry["step"] for entry in report.history] == [0, 5, 6]
    assert report.notes[0].startswith("broken off: ")
    assert "only part of it was measured" in printed.out
    assert [row["step"] for row in rows_of(Path("log.csv"))] == [0, 5]
    assert all(np.isfinite(frame.positions).all() for frame in ase.io.read("md.traj", ":"))


def test_what_never_had_forces_is_a_mistake_and_makes_no_report(
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for how, words in (
        ("raises", "in 100 cycles from the calculator at the first step"),
        ("nan", "NaN or infinite forces"),
    ):
        assert equiv_probe(monkeypatch, "md", f"{BREAKS}?at=1&how={how}", "methanol.xyz", "-o", "log.csv") == 2
        told = " ".join(capsys.readouterr().err.split())
        assert words in told
        assert not Path("log.json").exists()
    ase.io.write("nothing.extxyz", molecule("CH4")[:0])
    assert equiv_probe(monkeypatch, "md", FIELD, "nothing.extxyz", "-o", "log.csv") == 2
    assert "atom" in capsys.readouterr().err


def test_from_python_the_report_comes_with_the_error(tmp_path: Path) -> None:
    with pytest.raises(BrokenOffError, match="not converged") as caught:
        molecular_dynamics(Breaks(), molecule("CH4"), steps=50, every=5, log=tmp_path / "log.csv")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert caught.value.report.history[-1]["step"] == 6
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.report.model == caught.value.report.model
    with pytest.raises(EquivProbeError, match="without atoms"):
        molecular_dynamics(LinearField(TILT), molecule("CH4")[:0], steps=5, log=None)


def test_files_that_cannot_be_written_are_refused_before_the_run(
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("taken.json").mkdir()
    unwritable = [["-o", "methanol.xyz/log.csv"], ["-o", "taken.csv"], ["--traj", "methanol.xyz/md.traj"]]
    for arguments in unwritable:
        assert equiv_probe(monkeypatch, "md", f"{BREAKS}?at=1", "methanol.xyz", *arguments) == 2
        assert "which cannot be written" in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in folder.iterdir()) == ["methanol.xyz", "taken.json"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.json", "run.html"])
def test_the_report_may_be_named_instead_of_the_log(
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    run = ["md", FIELD, "methanol.xyz", "--steps", "2", "--every", "1", "-o", name, "--no-progress"]
    assert equiv_probe(monkeypatch, *run) == 0
    assert len(ase.io.read("run.jsonl", ":")) == 3
    assert "forces" in Path(name).read_text()


@pytest.mark.slow
def test_an_interrupt_from_the_keyboard_writes_log_and_report(folder: Path) -> None:  # noqa: F811
    """In a process of its own, with the signal: it arrives in the middle of a calculation."""
    run = ["md", f"{BREAKS}?at=8&how=waits", "methanol.xyz", "--every", "5", "-o", "log.csv", "--no-progress"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = warm_processes.start(warm_processes.EQUIV_PROBE, *run, cwd=folder, env=env)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and "waiting" not in process.errors():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Interrupted: only part of it was measured." in out
    assert [row["step"] for row in rows_of(folder / "log.csv")] == [0, 5]
    assert [entry["step"] for entry in Report.load(folder / "log.json").history] == [0, 5, 6]
