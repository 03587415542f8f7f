"""What all commands have in common: how they are started, what they call things, how wide they write, how they fail."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.io import write

import equiv_probe as ep
from equiv_probe.cli.main import build

COMMANDS = typer.main.get_command(build()).commands  # type: ignore[attr-defined]


class FailsOnWater(EMT):
    """Has no forces for three atoms."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):  # type: ignore[no-untyped-def]
        if len(atoms) == 3:
            raise PropertyNotImplementedError("no water")
        super().calculate(atoms, properties, system_changes)


@pytest.fixture
def molecules(tmp_path: Path) -> Path:
    write(tmp_path / "molecules.xyz", [molecule("NH3"), molecule("H2O"), molecule("CH4")])
    return tmp_path / "molecules.xyz"


def equiv_probe(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "equiv_probe", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**{k: v for k, v in os.environ.items() if k != "COLUMNS"}, **environment},
    )


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_sentence_and_an_example_of_options_that_it_has(name: str) -> None:
    command = COMMANDS[name]
    assert re.match(r"[A-Z][^.]*\.", command.help)
    program, called, *arguments = shlex.split(command.epilog.removeprefix("Example: "))
    assert (program, called) == ("equiv-probe", name)
    if name != "run":  # its arguments are the script's
        known = {spelling for option in command.params for spelling in [*option.opts, *option.secondary_opts]}
        assert {one for one in arguments if one.startswith("-")} <= known


def test_options_are_spelled_alike() -> None:
    """Of one name in two commands there is one short form, and what is a switch here is a switch there."""
    forms: dict[str, set[tuple[tuple[str, ...], bool]]] = {}
    for command in COMMANDS.values():
        for option in command.params:
            if option.param_type_name == "option" and not getattr(option, "hidden", False):
                forms.setdefault(option.name, set()).add(((*option.opts, *option.secondary_opts), option.is_flag))
    assert {name: found for name, found in forms.items() if len(found) > 1} == {}


@pytest.mark.slow
def test_tables_are_as_wide_as_asked_and_errors_are_one_line(molecules: Path) -> None:
    audit = ("audit", "emt", molecules, "--replicates", "2", "-q")
    for width in (60, 100):
        done = equiv_probe(*audit, cwd=molecules.parent, COLUMNS=str(width))
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= width
    assert "structures, " not in done.stderr, "-q shows no progress"
    wrong = equiv_probe("audit", "emt", molecules, "--design", "tetraedral", cwd=molecules.parent)
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
    assert "did you mean 'tetrahedral'" in wrong.stderr
    assert "'audit'" in equiv_probe("audti", cwd=molecules.parent).stderr


@pytest.mark.slow
def test_partly_failed_audits_end_as_asked_and_names_are_short(molecules: Path) -> None:
    calculator = f"{Path(__file__)}:FailsOnWater"
    found = {
        allowed: equiv_probe(
            *("audit", calculator, molecules, "--replicates", "2", "-q", "-o", f"{allowed}.json"),
            *(() if allowed == "any" else ("--max-failures", allowed)),
            cwd=molecules.parent,
        )
        for allowed in ("any", "0", "1")
    }
    assert {allowed: done.returncode for allowed, done in found.items()} == {"any": 0, "0": 1, "1": 0}
    assert "--max-failures 0: 1 measurements failed" in found["0"].stderr
    assert ep.load(molecules.parent / "0.json").model == f"{Path(__file__).name}:FailsOnWater"
    done = equiv_probe(
        "audit", "emt", molecules, "--replicates", "2", "--name", "cheap", "-o", "n.json", cwd=molecules.parent
    )
    assert done.stdout.startswith("cheap on ")
