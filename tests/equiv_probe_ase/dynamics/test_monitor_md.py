"""``equiv-probe md``: dynamics from the command line, its files, and that it goes on where it stopped."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from equiv_probe.cli.main import main
from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import Report
from equiv_probe_ase.dynamics.molecular_dynamics import molecular_dynamics

from .monitored import TILT, LinearField, molecule_in_motion
from .test_monitor_log import rows_of

FIELD = str(Path(__file__).with_name("monitored.py")) + ":tilted_field"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    ase.io.write(tmp_path / "methanol.xyz", molecule("CH3OH"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def equiv_probe(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["equiv-probe", *arguments])
    with pytest.raises(SystemExit) as ended, warnings.catch_warnings():
        main()
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_files_of_a_run_and_of_one_in_two_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    always = ["md", FIELD, "methanol.xyz", "--every", "5", "--timestep", "1", "--conservative-every", "10"]
    assert equiv_probe(monkeypatch, *always, "--steps", "30", "-o", "whole.csv", "--traj", "whole.traj") == 0
    printed = capsys.readouterr()
    assert "net torque of the model" in printed.out
    assert "log: whole.csv; trajectory: whole.traj" in printed.err

    assert equiv_probe(monkeypatch, *always, "--steps", "15", "-o", "parts.csv", "--traj", "parts.traj") == 0
    again = ["--steps", "30", "-o", "parts.csv", "--traj", "parts.traj", "--resume", "--json"]
    capsys.readouterr()
    assert equiv_probe(monkeypatch, *always, *again) == 0
    assert json.loads(capsys.readouterr().out)["history"][-1]["step"] == 30

    whole, parts = (ase.io.read(folder / f"{name}.traj", ":") for name in ("whole", "parts"))
    assert len(whole) == len(parts) == 7
    for a, b in zip(whole, parts, strict=True):
        assert a.positions.tobytes() == b.positions.tobytes()
        assert a.get_momenta().tobytes() == b.get_momenta().tobytes()
    for a, b in zip(rows_of(folder / "whole.csv"), rows_of(folder / "parts.csv"), strict=True):
        for name in a:
            assert b[name] == pytest.approx(a[name], rel=1e-9, abs=1e-9), name
    report = Report.load(folder / "whole.json")
    assert report["forces"].verdict == "broken"
    assert report.protocol["ensemble"] == "nve"
    assert [entry["step"] for entry in report.history] == [0, 5, 10, 15, 20, 25, 30]


@pytest.mark.slow
def test_an_averaged_calculator_breaks_nothing_along_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty rotations average a linear field exactly; what is left is the centroid's way from the field's origin."""
    atoms = molecule("CH3OH")
    atoms.positions -= atoms.positions.mean(0)
    ase.io.write("methanol.xyz", atoms)
    run = ["md", FIELD, "methanol.xyz", "--every", "1", "--steps", "2", "--timestep", "0.1"]
    assert equiv_probe(monkeypatch, *run, "-o", "plain.csv") == 0
    assert equiv_probe(monkeypatch, *run, "-o", "averaged.csv", "--twirl", "icosahedral") == 0
    plain, averaged = (Report.load(folder / f"{name}.json") for name in ("plain", "averaged"))
    assert averaged["forces"].rms < 1e-2 * plain["forces"].rms
    assert "twirled: icosahedral" in averaged.model


@pytest.mark.slow
def test_the_first_momenta_and_the_thermostat(folder: Path) -> None:
    atoms = molecule("CH3OH")
    molecular_dynamics(LinearField(TILT), atoms, steps=1, timestep=1e-6, log=None, temperature=500.0)
    assert np.linalg.norm(atoms.get_momenta().sum(0)) < 1e-6
    assert np.linalg.norm(atoms.get_angular_momentum()) < 1e-6
    assert atoms.get_temperature() == pytest.approx(500, rel=0.7)

    given = molecule_in_motion("CH3OH")
    momenta = given.get_momenta()
    molecular_dynamics(LinearField(TILT), given, steps=1, timestep=1e-9, log=None)
    np.testing.assert_allclose(given.get_momenta(), momenta, atol=1e-6)

    bath = molecule("CH3OH")
    bath.set_momenta(np.full((len(bath), 3), 1e-12))
    report = molecular_dynamics(
        LinearField(TILT), bath, steps=200, timestep=2.0, ensemble="langevin", friction=0.1, temperature=300.0, log=None
    )
    assert 50 < bath.get_temperature() < 1200  # heated from nothing; six atoms fluctuate by 0.3 and more
    assert report.protocol["friction"] == "0.1 /fs"
    assert "(Langevin: what acts" in " ".join(report.notes)


@pytest.mark.slow
def test_mistakes_are_explained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        (["--ensemble", "npt"], "nve or langevin"),
        (["--timestep", "0"], "a positive number"),
        (["-o", "log.txt"], "ends in .csv or .jsonl"),
        (["--resume"], "the trajectory of the run to go on with"),
        (["--traj", "methanol.xyz"], "a file of its own"),
    ):
        assert equiv_probe(monkeypatch, "md", FIELD, "methanol.xyz", *arguments) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    options = {"steps": 2, "every": 1, "log": None, "trajectory": folder / "methane.traj"}
    molecular_dynamics(LinearField(TILT), molecule("CH4"), **options)
    with pytest.raises(EquivProbeError, match="a trajectory of H2O"):
        molecular_dynamics(LinearField(TILT), molecule("H2O"), **options, resume=True)


def test_interrupted_dynamics_gives_what_there_is(folder: Path) -> None:
    class Stopped(LinearField):
        def calculate(self, *args, **kwargs) -> None:
            super().calculate(*args, **kwargs)
            if self.calls == 8 and self is calculator:  # not a copy that is rotated
                raise KeyboardInterrupt

    calculator = Stopped(TILT)
    report = molecular_dynamics(calculator, molecule("CH4"), steps=50, every=5, log=folder / "log.csv")
    assert not report.complete
    assert [entry["step"] for entry in report.history] == [0, 5, 6]
    assert [row["step"] for row in rows_of(folder / "log.csv")] == [0, 5]
