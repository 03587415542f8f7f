"""The command line does not overwrite what is not its own, and a guard does not pass what it could not look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ase.build import molecule
from ase.io import write
from typer.testing import CliRunner

from equiv_probe.cli.main import build
from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.calculators.by_name import make_calculator
from equiv_probe_ase.structures.loading import load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    frames = [molecule("H2O"), molecule("CH4"), molecule("SiH4"), molecule("CO")]  # EMT knows no silicon
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    write("some.xyz", frames)
    write("some.json", frames[0])
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(build(), ["audit", *arguments])
    return result.exit_code, str(result.exception or "") + result.output


def test_a_report_does_not_replace_the_structures(folder: Path) -> None:
    before = (folder / "some.json").read_bytes()
    _, said = run("emt", "some.json", "-o", "some.json")
    assert "the structures themselves" in said
    assert (folder / "some.json").read_bytes() == before


def test_fresh_does_not_empty_somebody_elses_file(folder: Path) -> None:
    (folder / "data.jsonl").write_text('{"precious": 1}\n')
    _, said = run("emt", "some.xyz@0:2", "-o", "data.json", "--fresh")
    assert "not a journal" in said
    assert (folder / "data.jsonl").read_text() == '{"precious": 1}\n'


@pytest.mark.parametrize(("structures", "code"), [("some.xyz@0:2", 0), ("some.xyz", 1)])
def test_a_guard_fails_on_what_it_could_not_look_at(folder: Path, structures: str, code: int) -> None:
    found, said = run("emt", structures, "--fail-above", "1meV/A")
    assert found == code
    assert ("could not be compared with the limit" in said) == (code == 1)


def test_frames_of_a_slice_keep_their_numbers(folder: Path) -> None:
    assert [s.name for s in load("some.xyz@1:")] == ["some.xyz[1]", "some.xyz[2]", "some.xyz[3]"]
    assert [s.name for s in load("some.xyz@1::2")] == ["some.xyz[1]", "some.xyz[3]"]
    assert [s.name for s in load("some.xyz@2")] == ["some.xyz[2]"]
    assert [s.name for s in load("some.json")] == ["some.json"]


def test_a_file_may_hold_a_calculator_that_is_made(folder: Path) -> None:
    (folder / "mine.py").write_text("from ase.calculators.emt import EMT\ncalc = EMT()\n")
    assert type(make_calculator("mine.py:calc")).__name__ == "EMT"
    (folder / "wrong.py").write_text("this is no Python\n")
    with pytest.raises(EquivProbeError, match="SyntaxError"):
        make_calculator("wrong.py:calc")
