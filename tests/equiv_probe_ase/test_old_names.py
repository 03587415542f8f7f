"""Arguments and options by the names that they had before: they do the same, and say what to write instead."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet

from equiv_probe.cli.main import build
from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import Report
from equiv_probe_ase import SymmetryMonitor, TwirledCalculator, audit

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms


def labelled() -> Atoms:
    atoms = molecule("CO")
    atoms.info["my_energy"] = 1.0
    return atoms


def audited(**named: Any) -> Any:
    report = audit(EMT(), labelled(), plan="klein", progress=False, **named)
    assert report["energy"].labelled is not None
    return report["energy"].labelled.total


def averaged(**named: Any) -> Any:
    return TwirledCalculator(plan="klein", **named).get_forces(labelled()).tolist()


def watched(**named: Any) -> Any:
    atoms = labelled()
    atoms.calc = EMT()
    return SymmetryMonitor(VelocityVerlet(atoms, 1.0), log=None, **named)._table._shown


@pytest.mark.parametrize(
    ("call", "old", "new"),
    [
        (audited, {"reference_keys": {"energy": "my_energy"}}, {"reference": {"energy": "my_energy"}}),
        (averaged, {"calc": EMT()}, {"calculator": EMT()}),
        (watched, {"quiet": True}, {"progress": False}),
        (watched, {"quiet": False}, {"progress": True}),
    ],
)
def test_arguments(call: Any, old: dict[str, Any], new: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "argument .* is now called", DeprecationWarning)
        expected = call(**new)
    with pytest.warns(
        DeprecationWarning, match=f"argument {next(iter(old))} .*is now called {next(iter(new))}"
    ) as heard:
        assert repr(call(**old)) == repr(expected)
    assert heard[0].filename == __file__


@pytest.mark.parametrize("call", [audited, averaged])
def test_both_names_at_once_are_refused(call: Any) -> None:
    old, new = ("calc", "calculator") if call is averaged else ("reference_keys", "reference")
    with pytest.raises(EquivProbeError, match=f"both {old} and {new}"):
        call(**{old: EMT(), new: EMT()})


@pytest.mark.parametrize(
    "renaming",
    [
        ("audit", "--no-batch", "--no-batched"),
        ("audit", "--batch", "--batched"),
        ("md", "--quiet", "--no-progress"),
    ],
)
def test_options(
    renaming: tuple[str, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    command, old, new = renaming
    monkeypatch.chdir(tmp_path)
    ase.io.write("co.xyz", labelled(), format="extxyz")
    short = ["--steps", "2"] if command == "md" else ["--design", "klein"]
    forces = []
    for name, suffix in ((old, "old"), (new, "new")):
        with pytest.raises(SystemExit) as ended:
            build()([command, "emt", "co.xyz", *short, name, "-o", f"{suffix}.json"])
        assert ended.value.code == 0
        said = [message for message in caplog.messages if "is now called" in message]
        assert said == ([f"the option {old} is now called {new}"] if name == old else [])
        caplog.clear()
        report = Report.load(tmp_path / f"{suffix}.json")
        forces.append((report["forces"].rms, report.protocol["evaluator"], report.protocol["evaluations"]))
    assert forces[0][1:] == forces[1][1:]
    assert forces[0][0] == pytest.approx(forces[1][0], abs=1e-12)
    assert np.isfinite(forces[0][0])


@pytest.mark.parametrize("command", ["audit", "md"])
def test_no_help_shows_old_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build()([command, "--help"], terminal_width=200)
    shown = capsys.readouterr().out
    assert "--no-batched" in shown
    assert "--no-progress" in shown
    assert "--no-batch " not in shown
    assert "--quiet" not in shown
