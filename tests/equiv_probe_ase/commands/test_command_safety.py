"""The command line does not overwrite what is not its own, and a guard does not pass what it could not look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ase.build import molecule
from ase.io import write
from typer.testing import CliRunner

from equiv_probe.cli.main import build
from equiv_probe.errors import EquivProbeError
from equiv_probe.report.loading import load as load_report
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
    assert "one of the files to read" in said
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


CACHING = """
from ase.calculators.emt import EMT

class Caching(EMT):
    known = {}
    def calculate(self, atoms=None, *args):
        super().calculate(atoms, *args)
        self.results = self.known.setdefault(str(atoms.symbols), {"energy": self.results["energy"]})

class Sound(EMT):
    implemented_properties = ("energy",)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("model", "code"), [("Caching", 1), ("Sound", 0)])
def test_a_guard_fails_on_what_is_not_to_be_believed(folder: Path, model: str, code: int) -> None:
    """By its number alone a model that caches passes any limit."""
    (folder / "model.py").write_text(CACHING)
    command = (f"model.py:{model}", "some.xyz@0:2", "--properties", "energy", "-o", "report.json")
    found, said = run(*command, "--fail-above", "energy=1meV/atom")
    assert found == code
    assert ("--fail-above: a control failed: energy: these outputs do not depend" in said) == (code == 1)
    report = load_report(folder / "report.json")
    assert report["energy"].rms < 1e-6
    page = report.to_html()
    body = page.partition("</style>")[2]  # the styles know all verdicts by name
    for shown in (said, str(report), repr(report), body, report.to_json()):
        assert ("round-off" in shown or "down to rounding" in shown) == (code == 0)
    assert ('class="answer bad"' in page) == (code == 1)
    assert run(*command)[0] == 0, "without a limit nothing is guarded"


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
