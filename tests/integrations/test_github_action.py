"""The script of the action, run with its inputs: it fails where an error is too large or grew, and saves it all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import equiv_probe as ep

HERE = Path(__file__).parents[2] / "integrations/github"
ACTION = yaml.safe_load((HERE / "action.yml").read_text())
CALCULATOR = """
from ase.calculators.lj import LennardJones

class Tilted(LennardJones):
    tilt = 1e-3

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["forces"][:, 0] *= 1 + self.tilt

class Worse(Tilted):
    tilt = 3e-3
"""
pytestmark = pytest.mark.slow


def run(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """What the runner does: every ``${{ inputs.name }}`` of the step's environment, and then its script."""
    step = next(one for one in ACTION["runs"]["steps"] if "CALCULATOR" in one.get("env", {}))
    given = {name: one.get("default", "") for name, one in ACTION["inputs"].items()} | inputs
    values = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: given[found[1]], text)
        for name, text in step["env"].items()
    }
    places = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = (
        os.environ
        | values
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, places)),
        }
    )
    return subprocess.run(
        ["bash", "-e", "-c", step["run"]], cwd=folder, env=environment, text=True, capture_output=True, check=False
    )


def test_it_fails_above_a_limit_and_where_an_error_grew(tmp_path: Path) -> None:
    from ase.build import molecule
    from ase.io import write

    (tmp_path / "fields.py").write_text(CALCULATOR)
    molecules = [molecule(name) for name in ("CH4", "C2H6", "C3H8", "CH3OH", "NH3", "H2O")]
    for k, one in enumerate(molecules):
        one.rattle(0.1, seed=k)
    write(tmp_path / "some.xyz", molecules)
    inputs = {"structures": "some.xyz", "options": "--properties forces --design tetrahedral"}
    fine = run(tmp_path, calculator="fields:Tilted", **inputs)
    assert fine.returncode == 0, fine.stderr
    found = ep.load(tmp_path / "equivariance.json")
    assert (tmp_path / "equivariance.html").exists()
    above = run(tmp_path, calculator="fields:Tilted", **{"fail-above": f"{found['forces'].rms / 2}meV/A"}, **inputs)
    assert above.returncode == 1
    assert "--fail-above" in above.stderr
    (tmp_path / "equivariance.json").rename(tmp_path / "old.json")
    assert run(tmp_path, calculator="fields:Tilted", baseline="old.json", **inputs).returncode == 0
    grown = run(tmp_path, calculator="fields:Worse", baseline="old.json", **inputs)
    assert grown.returncode == 1
    assert "--fail-on-regression: forces: √L_equiv of equivariance is 3.00 times that of old" in grown.stderr


def test_the_example_uses_inputs_that_there_are() -> None:
    steps = yaml.safe_load((HERE / "workflow.yml").read_text())["jobs"]["audit"]["steps"]
    used = next(one for one in steps if "integrations/github" in one.get("uses", ""))["with"]
    assert set(used) <= set(ACTION["inputs"])
    assert {name for name, one in ACTION["inputs"].items() if one.get("required")} <= set(used)


def test_the_hooks_run_commands_that_there_are() -> None:
    hooks = yaml.safe_load((HERE.parents[1] / ".pre-commit-hooks.yaml").read_text())
    for hook in hooks:
        program, *arguments = hook["entry"].split()
        said = subprocess.run(
            [Path(sys.executable).parent / program, *(arguments[:1] if program == "equiv-probe" else []), "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert all(argument in said for argument in ("-m MARKEXPR",) if program == "pytest")
