"""What may happen to a journal: a second process, a disk that is full, a folder in its place, damaged lines."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import Report
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe_ase import audit, merge
from equiv_probe_ase.auditing import journal as journals

from ... import warm_processes
from .faulty_calculators import Noisy
from .test_parts import PLAN, Tilted, comparable, structures

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
HOLD = """
import sys, time
from pathlib import Path
from equiv_probe_ase.auditing.journal import Journal
with Journal(Path(sys.argv[1]), {"a": 1}):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_kill_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    content = path.read_bytes()
    for fresh in (False, True):
        with pytest.raises(EquivProbeError, match="another process is writing"):
            journals.Journal(path, {"a": 1}, fresh=fresh)
    assert path.read_bytes() == content
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with journals.Journal(path, {"a": 1}) as book:
        assert book.header["question"] == {"a": 1}
        with pytest.raises(EquivProbeError, match="another process is writing"):
            journals.Journal(path, {"a": 1})
    assert [one.name for one in tmp_path.iterdir()] == ["j.jsonl"]


DAMAGE = {
    "cut": lambda line: line[: len(line) // 2] + b"\n",
    "zeros of a crash": lambda line: b"\0" * (len(line) - 1) + b"\n",
    "another encoding": lambda line: b"\xff\xfe" + line,
    "two lines in one": lambda line: line[:-1] + line,
    "a list": lambda line: b"[1, 2]\n",
    "a record without numbers": lambda line: json.dumps({"key": "x", "name": "y", "index": 0}).encode() + b"\n",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_lines_are_skipped_listed_and_measured_again(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "j.jsonl"
    first = audit(Tilted(), structures(5), plan=PLAN, journal=path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = DAMAGE[kind](lines[2])
    path.write_bytes(b"".join(lines))
    again = audit(Tilted(), structures(5), plan=PLAN, journal=path)
    assert again.structures == first.structures
    assert again.measured == first.measured
    assert again.protocol["resumed structures"] == 4
    (said,) = [note for note in again.notes if "damaged" in note]
    assert "line 3" in said
    assert path.read_bytes().startswith(b"".join(lines))


def test_a_damaged_first_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    audit(Tilted(), structures(3), plan=PLAN, journal=path)
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first[:100] + b"\n", *rest]))
    content = path.read_bytes()
    with pytest.raises(EquivProbeError, match="first line is damaged"):
        audit(Tilted(), structures(3), plan=PLAN, journal=path)
    assert path.read_bytes() == content
    audit(Tilted(), structures(3), plan=PLAN, journal=path, fresh=True)
    assert path.read_bytes() != content


class Everything(Tilted):
    """All quantities that an audit knows by itself."""

    implemented_properties = ("energy", "forces", "stress", "dipole", "charges", "magmoms")

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        x = atoms.positions - atoms.positions.mean(0)
        other = {"stress": np.arange(6) * 0.1, "dipole": x.sum(0) + 0.1, "charges": x[:, 0], "magmoms": x * [1, 0, 0]}
        return {**super().evaluate(atoms), **other}


@pytest.mark.parametrize(
    ("calculator", "options"),
    [
        (Everything(), {}),
        (Everything(), {"plan": RotationPlan("klein", 4, improper=True)}),
        (Everything(), {"plan": RotationPlan("haar", 2)}),
        (Everything(), {"rel_err": 0.5, "max_rotations": 64}),
        (Everything(), {"loss": "huber-norm"}),
        (Noisy(1e-3), {}),
        (EMT(), {}),
    ],
)
def test_what_is_written_is_believed_when_it_is_read(calculator: Any, options: dict[str, Any], tmp_path: Path) -> None:
    frames = [*structures(4, labels=True), bulk("Cu"), Atoms("H"), Atoms("H2", [[0, 0, 0], [0, 0, 1]], cell=[9, 9, 9])]
    for atoms in frames:
        atoms.arrays["REF_forces"] = atoms.positions * 0.1
    options = {"plan": PLAN, "journal": tmp_path / "j.jsonl", **options}
    first = audit(calculator, frames, **options)
    measured = len(first.structures)
    again = audit(calculator, frames, **options)
    assert again.protocol["resumed structures"] == measured > 2
    assert not any("damaged" in note for note in again.notes)
    assert again.measured == first.measured


ODD = [None, True, -1, 0, 1e308, -1e308, 1e-320, 10**400, math.nan, "", "x" * 1000, [], {}, [[[]]], [None], {"a": 1}]


def places(entry: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something could be changed in an entry; of lists the first few."""
    inside = entry.items() if isinstance(entry, dict) else enumerate(entry[:3]) if isinstance(entry, list) else ()
    return [above, *(place for key, value in inside for place in places(value, (*above, key)))]


@pytest.mark.slow
def test_whatever_is_changed_in_a_journal_is_refused_or_measured_again(tmp_path: Path) -> None:
    path, frames, draw = tmp_path / "j.jsonl", structures(4, labels=True), random.Random(0)
    expected = audit(Tilted(), frames, plan=PLAN, journal=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    anywhere = [place for place in places(lines) if len(place) > 1]
    for _ in range(60):
        changed = copy.deepcopy(lines)
        *above, last = draw.choice(anywhere)
        entry: Any = changed
        for key in above:
            entry = entry[key]
        if draw.random() < 0.4:
            del entry[last]
        else:
            entry[last] = draw.choice(ODD)
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))
        try:
            merge([path])
            found = audit(Tilted(), frames, plan=PLAN, journal=path, progress=False)
        except EquivProbeError:
            assert above[0] == 0 or "plain" in above, (above, last)  # another question, or another model's outputs
            continue
        assert len(found.structures) == len(expected.structures)


def test_no_room_is_said_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(journals.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(EquivProbeError, match=r"0.01 MB left .* about 0.\d+ MB"):
        audit(Tilted(), structures(40), plan=PLAN, journal=tmp_path / "j.jsonl")
    assert len((tmp_path / "j.jsonl").read_bytes().splitlines()) == 1  # the header alone


def test_the_estimate_of_what_is_needed_is_about_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    audit(Tilted(), structures(20), plan=PLAN, journal=path)
    size, free = path.stat().st_size, []
    for allowed in (0.5 * size, 2 * size):
        usage = shutil.disk_usage(tmp_path)._replace(free=int(allowed))
        monkeypatch.setattr(journals.shutil, "disk_usage", lambda path, usage=usage: usage)
        try:
            audit(Tilted(), structures(20), plan=PLAN, journal=tmp_path / "k.jsonl", fresh=True)
        except EquivProbeError:
            free.append(allowed)
    assert free == [0.5 * size]


def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    whole = audit(Tilted(), structures(6), plan=PLAN)
    real = os.fsync
    calls = 0

    def full(number: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # the header, two structures, and no more
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    monkeypatch.setattr(journals.os, "fsync", full)
    stopped = audit(Tilted(), structures(6), plan=PLAN, journal=path)
    assert not stopped.complete
    assert len(stopped.structures) == 2
    assert any("No space left on device" in note for note in stopped.notes)
    monkeypatch.setattr(journals.os, "fsync", real)
    again = audit(Tilted(), structures(6), plan=PLAN, journal=path)
    assert again.protocol["resumed structures"] == 2
    assert comparable(again) == comparable(whole)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_what_cannot_hold_a_report_is_refused_before_the_run(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "m.xyz", structures(3), format="extxyz")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "device.json").symlink_to("/dev/full")
    (tmp_path / "beside.jsonl").mkdir()
    (tmp_path / "file").write_text("")
    for name, said in (
        (".", "folder"),
        ("folder.json", "folder"),
        ("device.json", "device"),
        ("beside.json", "folder"),
        ("file/report.json", "cannot be written"),
    ):
        started = warm_processes.start(
            warm_processes.EQUIV_PROBE, "audit", "no.such.module:calculator", "m.xyz", "-o", name, cwd=tmp_path
        )
        out, err = started.communicate(timeout=120)
        assert started.returncode == 2
        assert said in " ".join(err.split())
        assert "which cannot be imported" not in err  # it was said before the model was made
        assert not out


def test_reports_are_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = audit(Tilted(), structures(3), plan=PLAN)
    report.save(tmp_path / "r.json")
    old = (tmp_path / "r.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", _no_space)
        with pytest.raises(OSError, match="No space"):
            audit(Tilted(), structures(4), plan=PLAN).save(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_bytes() == old
    assert [one.name for one in tmp_path.iterdir()] == ["r.json"]
    assert Report.load(tmp_path / "r.json").structures == report.structures


def _no_space(self: Any, target: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
