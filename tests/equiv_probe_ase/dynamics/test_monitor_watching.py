"""``EQUIV_PROBE=1 python md.py`` and ``equiv-probe run md.py``: real scripts, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

import equiv_probe
from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import Report
from equiv_probe_ase.dynamics import environment as watching
from equiv_probe_ase.dynamics.monitor import SymmetryMonitor

from .monitored import TILT, LinearField, cluster, moving

ROOT = Path(__file__).parents[3]
SCRIPT = """
    import numpy as np
    from ase import Atoms, units
    from ase.md.verlet import VelocityVerlet
    from ase.optimize import BFGS
    from monitored import LinearField, TILT, cluster

    atoms = cluster()
    atoms.calc = LinearField(TILT)
    dyn = VelocityVerlet(atoms, 0.5 * units.fs)
    dyn.run(20)
    np.save("end.npy", atoms.positions)
    print(atoms.calc.calls, len(dyn.observers))
"""
READING = """
    import ase.io
    frames = ase.io.read("seen.jsonl", ":")
    last = ase.io.read("seen.jsonl")
    away = abs(last.positions - atoms.positions).max() + abs(last.get_forces() - atoms.get_forces()).max()
    seen = last.info["equiv_forces_rms_meV_per_A"]
    print(len(frames), frames[1].info["name"], last.get_potential_energy(), seen, away, sep=";")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the package installed as its ``pyproject.toml`` says, entry points and all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [
        line for group, names in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in names.items()))
    ]
    installed = tmp_path / "site" / f"equiv_probe-{project['version']}.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: equiv-probe\nVersion: {project['version']}\n")
    (installed / "entry_points.txt").write_text("\n".join(lines))
    return tmp_path


def run(folder: Path, script: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a new interpreter: ASE looks for what is installed when it is imported."""
    (folder / "md.py").write_text(textwrap.dedent(script))
    code = Path(equiv_probe.__file__).parents[1]
    paths = [folder / "site", code, code / "plugins", Path(__file__).parent]
    given = {key: value for key, value in os.environ.items() if key != "EQUIV_PROBE"}
    env = {**given, "PYTHONPATH": os.pathsep.join(map(str, paths)), **environment}
    started = [sys.executable, *(command or ("md.py",))]
    return subprocess.run(started, capture_output=True, text=True, cwd=folder, env=env, timeout=120, check=False)


RUN = ("-c", "from equiv_probe.cli.main import main; main()", "run")


def test_unset_it_does_nothing_and_imports_nothing(folder: Path) -> None:
    script = (
        SCRIPT
        + "    import sys\n    print(sorted(n for n in sys.modules if n == 'torch' or n.startswith('equiv_probe.')))\n"
    )
    done = run(folder, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["21 0", "['equiv_probe.lazy_names']"]
    assert done.stderr == ""
    assert not list(folder.glob("*.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["variable", "command"])
def test_any_script_is_watched_unchanged(folder: Path, how: str) -> None:
    atoms = cluster()
    atoms.calc = LinearField(TILT)
    dyn = VelocityVerlet(atoms, 0.5 * units.fs)
    monitor = SymmetryMonitor(dyn, atoms, every=5, log=None)
    dyn.run(20)
    if how == "variable":
        done = run(folder, SCRIPT + READING, EQUIV_PROBE="every=5,log=seen.jsonl")
    else:
        done = run(folder, SCRIPT, *RUN, "--set", "every=5", "--report", "found.json", "md.py")
    assert done.returncode == 0, done.stderr
    assert np.load(folder / "end.npy").tobytes() == atoms.positions.tobytes()
    assert done.stdout.startswith("21 1")  # no call more, one observer more
    assert f"watches VelocityVerlet of {atoms.get_chemical_formula()}" in done.stderr
    assert "measured nothing" not in done.stderr
    report = Report.load(folder / ("equiv_probe_report.json" if how == "variable" else "found.json"))
    assert report["forces"].verdict == "broken"
    assert "net torque of the model" in done.stdout
    assert [entry["step"] for entry in report.history] == [0, 5, 10, 15, 20]
    # The same numbers as of a monitor that was asked for by name.
    assert report["forces"].equiv == pytest.approx(monitor.report()["forces"].equiv, rel=1e-12)
    if how == "command":
        assert (folder / "equiv_probe_dynamics.csv").exists()
        return
    frames, name, potential, measured, away = done.stdout.splitlines()[1].split(";")
    assert (frames, name) == ("5", "step 5")
    assert float(potential) == atoms.get_potential_energy()
    assert float(measured) == monitor.log.rows[-1]["forces_rms_meV_per_A"]
    assert float(away) == 0


@pytest.mark.slow
def test_optimisers_filters_and_what_cannot_be_watched(folder: Path) -> None:
    script = """
        from ase.build import bulk, molecule
        from ase.calculators.emt import EMT
        from ase.filters import FrechetCellFilter
        from ase.mep import NEB
        from ase.optimize import BFGS, FIRE

        for atoms in (molecule("H2O"), molecule("CO")):
            atoms.calc = EMT()
            BFGS(atoms, logfile=None).run(fmax=0.05, steps=3)
        copper = bulk("Cu") * 2
        copper.calc = EMT()
        FIRE(FrechetCellFilter(copper), logfile=None).run(steps=2)
        images = [molecule("H2O") for _ in range(3)]
        images[2].positions += [0.0, 0.0, 0.3]
        for image in images:
            image.calc = EMT()
        BFGS(NEB(images), logfile=None).run(steps=1)
        print("done")
    """
    done = run(folder, script, EQUIV_PROBE="every=1,log=seen.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done")
    assert done.stderr.count("watches BFGS of") == 2
    assert "watches FIRE of Cu8" in done.stderr
    assert "does not watch BFGS: found a NEB to watch" in done.stderr
    for name in ("seen.jsonl", "seen_1.jsonl", "seen_2.jsonl"):
        assert json.loads((folder / name).read_text().splitlines()[0])["equiv_probe_dynamics"] == 1
    assert (folder / "equiv_probe_report_2.json").exists()


def test_a_watched_run_does_not_end_because_of_it(caplog: pytest.LogCaptureFixture) -> None:
    class Alone(LinearField):
        def calculate(self, *args, **kwargs) -> None:
            super().calculate(*args, **kwargs)
            if self is not calculator:
                raise RuntimeError("a copy")

    calculator = Alone(TILT)
    atoms, dyn = moving(calculator)
    monitor = SymmetryMonitor(dyn, atoms, every=1, log=None)
    monitor.detach()
    watching._monitors.append(monitor)
    dyn.attach(watching.Guarded(monitor))
    dyn.run(3)
    assert caplog.text.count("watches no longer: RuntimeError: a copy") == 1
    assert monitor not in watching._monitors
    assert dyn.nsteps == 3


def test_a_slip_in_the_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _, dyn = moving(LinearField(TILT))
    monkeypatch.setenv("EQUIV_PROBE", "evry=5")
    with pytest.raises(EquivProbeError, match="EQUIV_PROBE='evry=5'"):
        watching._attach(dyn)
