"""Results as they come: whatever stops an audit, what was done stays, and the same call resumes to the same report.

"The same" is bit for bit, except for how long it took.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import ase.io
import pytest
import torch
from ase.build import molecule

import equiv_probe as ep
from equiv_probe.results.report import Report
from equiv_probe.testing import LinearField, QuadraticEnergy
from equiv_probe_ase import audit

from ... import warm_processes

if TYPE_CHECKING:
    from pathlib import Path

PLAN = ep.RotationPlan("klein", replicates=4)
SLOW_CALCULATOR = """
import os, time
from ase.calculators.emt import EMT

class Slow(EMT):
    "EMT pulled towards the laboratory's x axis, slowly: a test has time to kill it."
    def calculate(self, *args):
        super().calculate(*args)
        time.sleep(float(os.environ.get("PAUSE", "0")))
        self.results["forces"] = self.results["forces"] + [0.1, 0.0, 0.0]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = []
    for index in range(8):
        atoms = molecule(("H2O", "CH4", "CO", "CH3OH")[index % 4])
        atoms.rattle(0.05, seed=index)
        made.append(atoms)
    ase.io.write(tmp_path / "molecules.xyz", made, format="extxyz")
    (tmp_path / "slow.py").write_text(SLOW_CALCULATOR)
    return tmp_path


def command(folder: Path, *options: str, pause: float = 0.0) -> warm_processes.Started:
    arguments = ["audit", "slow.py:Slow", "molecules.xyz", "-o", "report.json", "--design", "klein", *options]
    environment = {**os.environ, "PAUSE": str(pause)}
    return warm_processes.start(warm_processes.EQUIV_PROBE, *arguments, cwd=folder, env=environment)


def finish(process: warm_processes.Started) -> tuple[int | None, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for_records(journal: Path, count: int) -> None:
    """Until a header and so many results are on the disk."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") > count:
            return
        time.sleep(0.02)
    pytest.fail(f"no {count} records in a minute")


def comparable(report: Report) -> dict[str, Any]:
    """All but how long it took, and how much of it was resumed."""
    plain = report.to_dict()
    plain.pop("protocol")
    return plain


@pytest.mark.slow
def test_a_kill_in_the_middle_loses_nothing_that_was_done(folder: Path) -> None:
    code, _, _ = finish(command(folder))
    assert code == 0
    whole = comparable(Report.load(folder / "report.json"))
    for name in ("report.json", "report.jsonl"):
        (folder / name).unlink()

    process = command(folder, pause=0.02)
    wait_for_records(folder / "report.jsonl", 2)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert not (folder / "report.json").exists()
    done = len((folder / "report.jsonl").read_text().splitlines()) - 1
    assert 2 <= done < 8

    code, _, _ = finish(command(folder))
    assert code == 0
    resumed = Report.load(folder / "report.json")
    assert comparable(resumed) == whole
    assert resumed.protocol["resumed structures"] == done


@pytest.mark.slow
def test_ctrl_c_keeps_and_shows_what_was_done(folder: Path) -> None:
    process = command(folder, pause=0.02)
    wait_for_records(folder / "report.jsonl", 2)
    process.send_signal(signal.SIGINT)
    code, out, _ = finish(process)
    assert code == 130
    assert "Interrupted" in out
    partial = Report.load(folder / "report.json")
    assert not partial.complete
    assert 2 <= len(partial.structures) < 8

    code, out, _ = finish(command(folder))
    assert code == 0
    assert "Interrupted" not in out
    complete = Report.load(folder / "report.json")
    assert complete.complete
    assert complete.structures[: len(partial.structures)] == list(partial.structures)


@pytest.mark.slow
def test_resuming_evaluates_only_what_is_left(
    planted: Any, quadratic: QuadraticEnergy, mixed: Any, tmp_path: Path
) -> None:
    journal = tmp_path / "a.jsonl"
    first = audit(planted(quadratic), mixed, plan=PLAN, journal=journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(mixed)
    for keep in (1, 3, 5):
        journal.write_bytes(b"".join(lines[:keep]))
        again = audit(planted(quadratic), mixed, plan=PLAN, journal=journal)
        assert comparable(again) == comparable(first)
        crystals = sum(
            atoms.cell.rank == 3 for atoms in mixed[keep - 1 :]
        )  # broken: two more, with the cell transposed
        assert again.protocol["evaluations"] == (5 - keep) * (PLAN.size + 7) + 2 * crystals
        assert journal.read_bytes() == b"".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_torn_last_line_is_cut_off(planted: Any, quadratic: Any, mixed: Any, tmp_path: Path, cut: int) -> None:
    journal = tmp_path / "a.jsonl"
    first = audit(planted(quadratic), mixed, plan=PLAN, journal=journal)
    content = journal.read_bytes()
    journal.write_bytes(content[:-cut])
    again = audit(planted(quadratic), mixed, plan=PLAN, journal=journal)
    assert comparable(again) == comparable(first)
    assert journal.read_bytes() == content


def test_a_torn_first_line_starts_over(planted: Any, quadratic: Any, mixed: Any, tmp_path: Path) -> None:
    journal = tmp_path / "a.jsonl"
    first = audit(planted(quadratic), mixed, plan=PLAN, journal=journal)
    content = journal.read_bytes()
    journal.write_bytes(content[:60])
    assert comparable(audit(planted(quadratic), mixed, plan=PLAN, journal=journal)) == comparable(first)
    assert journal.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"plan": ep.RotationPlan("klein", replicates=4, seed=1)}, "plan"),
        ({"plan": ep.RotationPlan("klein", replicates=4, improper=True)}, "plan"),
        ({"center": "origin"}, "center"),
        ({"properties": ["forces"]}, "quantities"),
        ({"properties": ["energy", "forces", "stress"]}, "asked"),
        ({"loss": "mae-norm"}, "loss"),
        ({"name": "another"}, "model"),
        ({"fingerprint": "other weights"}, "fingerprint"),
        ({"precision": torch.float32}, "precision"),
        ({"rel_err": 0.1}, "rel_err"),
        ({"schema": ep.Schema(inputs={}, outputs={"energy": ep.pseudoscalar})}, "quantities"),
    ],
)
def test_a_journal_of_another_question_is_refused(
    batched: Any, quadratic: Any, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    journal, water = tmp_path / "a.jsonl", molecule("H2O")
    options = {"plan": PLAN, "name": "planted", "journal": journal}
    audit(batched(quadratic), water, **options)
    content = journal.read_bytes()
    with pytest.raises(ep.EquivProbeError, match=rf"another question.*{named}"):
        audit(batched(quadratic), water, **{**options, **change})
    assert journal.read_bytes() == content
    audit(batched(quadratic), water, **{**options, **change}, fresh=True)
    assert journal.read_bytes() != content


def test_results_of_other_weights_are_not_resumed(planted: Any, mixed: Any, tmp_path: Path) -> None:
    """A model that was trained on between two runs of the same command has other outputs."""
    network = torch.nn.Linear(3, 3, bias=False).double()

    def run() -> Report:
        calculator = planted(lambda x: {"forces": network(x)}, names=["forces"])
        calculator.model = network
        return audit(calculator, mixed, plan=PLAN, journal=tmp_path / "a.jsonl")

    assert run().protocol["evaluations"] > run().protocol["evaluations"] == 0
    with torch.no_grad():
        network.weight[0, 0] += 1e-9
    with pytest.raises(ep.EquivProbeError, match=r"another question.*weights"):
        run()


@pytest.mark.slow
def test_a_structure_that_was_edited_is_measured_again(planted: Any, mixed: Any, tmp_path: Path) -> None:
    journal, model = tmp_path / "a.jsonl", LinearField(torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    audit(planted(model), mixed, plan=PLAN, journal=journal)
    mixed[1].positions[0] += 0.5
    mixed[2].arrays["REF_forces"] = mixed[2].positions * 0
    again = audit(planted(model), mixed, plan=PLAN, journal=journal)
    assert again.protocol["resumed structures"] == 2
    assert comparable(again) == comparable(audit(planted(model), mixed, plan=PLAN))


@pytest.mark.slow
def test_somebody_elses_file_is_not_overwritten(planted: Any, quadratic: Any, mixed: Any, tmp_path: Path) -> None:
    for content in ("my precious notes\n", '{"a": 1}\n', "no line break", '[1, 2]\n"x"\n'):
        (tmp_path / "notes.jsonl").write_text(content)
        with pytest.raises(ep.EquivProbeError):
            audit(planted(quadratic), mixed, plan=PLAN, journal=tmp_path / "notes.jsonl")
        assert (tmp_path / "notes.jsonl").read_text() == content


def test_the_journal_is_strict_json(planted: Any, quadratic: Any, mixed: Any, tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    audit(planted(quadratic), mixed, plan=PLAN, journal=tmp_path / "a.jsonl")
    for line in (tmp_path / "a.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
