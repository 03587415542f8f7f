"""Rotations belong to the structure: lists in any order, parts of them and parts that overlap give the same numbers.

"The same" is bit for bit, on one processor, also of a model whose last digits depend on what shares a batch.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from equiv_probe.cli.main import build
from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import Report
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe_ase import audit, merge

from .faulty_calculators import Faulty

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
PLAN = RotationPlan("klein", replicates=4)


class Tilted(Faulty):
    """An energy that is tilted, and forces without torque that are not its gradient and have a part along x."""

    implemented_properties = ("energy", "forces")

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        x = atoms.positions - atoms.positions.mean(0)
        along_x = 0.1 * float(np.linalg.norm(x)) * np.array([1.0, 0.0, 0.0])
        return {"energy": float((x**2 @ [0.5, 0.5, 0.8]).sum()), "forces": along_x - x}


class InBatches(Tilted):
    """The same, with last digits that depend on how many share the batch."""

    def calculate_batch(self, structures: list[Atoms], properties: list[str]) -> list[dict[str, Any]]:
        noise = 1 + 1e-14 * (len(structures) % 7)
        return [{name: value * noise for name, value in self.evaluate(atoms).items()} for atoms in structures]


def structures(count: int = 40, *, labels: bool = False) -> list[Atoms]:
    made = []
    for place in range(count):
        atoms = bulk("NaCl", "rocksalt", 5.64) if place % 7 == 3 else molecule(("H2O", "CH4", "CH3OH")[place % 3])
        atoms.rattle(0.05, seed=place)
        if labels:  # of another zero than the model's
            atoms.info["REF_energy"] = -500.0 * len(atoms) + 0.1 * place
        made.append(atoms)
    return made


def comparable(report: Report) -> dict[str, Any]:
    """All but how long it took and who measured it."""
    plain = report.to_dict()
    plain.pop("protocol")
    return plain


def in_parts(folder: Path, frames: list[Atoms], count: int, calculator: Any = InBatches) -> list[Path]:
    paths = [folder / f"{k}.jsonl" for k in range(1, count + 1)]
    for k, path in enumerate(paths, 1):
        audit(calculator(), frames, plan=PLAN, part=f"{k}/{count}", journal=path)
    return paths


def by_name(report: Report) -> dict[str, Any]:
    return {one["name"]: {k: v for k, v in one.items() if k != "index"} for one in report.structures}


def test_a_structure_has_its_rotations_wherever_it_stands() -> None:
    frames = structures(6)
    for place, atoms in enumerate(frames):
        atoms.info["name"] = f"molecule {place}"
    first, again = audit(Tilted(), frames, plan=PLAN), audit(Tilted(), frames[::-1][:4], plan=PLAN)
    assert by_name(again).items() <= by_name(first).items()


def test_every_structure_draws_rotations_of_its_own() -> None:
    """The negative control: one set for all would pass the test before this one, and correlate all errors."""
    water = molecule("H2O")
    turned = water.copy()
    turned.rotate(90, "z")
    found = audit(Tilted(), [water, turned], plan=PLAN).structures
    first, second = (one["quantities"]["energy"]["rms"] for one in found)
    assert first != pytest.approx(second, rel=1e-6)


def test_what_was_given_twice_is_counted_once_and_said() -> None:
    frames = structures(5)
    once = audit(Tilted(), frames, plan=PLAN)
    twice = audit(Tilted(), [*frames, frames[1].copy(), frames[3].copy()], plan=PLAN)
    assert by_name(twice).keys() == by_name(once).keys()
    assert twice["forces"] == once["forces"]
    (said,) = [note for note in twice.notes if "counted once" in note]
    assert said.startswith("2 of 7 structures")
    assert "structure[5] is structure[1]" in said
    labelled = frames[1].copy()
    labelled.info["charge"] = 1  # the model may look at it: another structure
    assert len(audit(Tilted(), [*frames, labelled], plan=PLAN).structures) == 6


@pytest.mark.parametrize("count", [2, 3])
def test_parts_merge_to_the_whole(tmp_path: Path, count: int) -> None:
    frames = structures(labels=True)
    whole = audit(InBatches(), frames, plan=PLAN)
    assert any("one zero" in note for note in whole.notes)
    assert any("not the energy's gradient" in note for note in whole.notes)
    merged = merge(in_parts(tmp_path, frames, count))
    assert comparable(merged) == comparable(whole)
    assert merged.complete
    for key in ("rotations", "plan", "evaluator", "versions"):
        assert merged.protocol[key] == whole.protocol[key]


def test_parts_choose_the_plan_of_the_whole(tmp_path: Path) -> None:
    """Every part is given all structures, and decides by the same three of them."""
    frames = structures()
    whole = audit(InBatches(), frames, plan="auto")
    paths = [tmp_path / f"{k}.jsonl" for k in (1, 2)]
    for k, path in enumerate(paths, 1):
        audit(InBatches(), frames, plan="auto", part=f"{k}/2", journal=path)
    merged = merge(paths)
    assert comparable(merged) == comparable(whole)
    assert merged.protocol["choice of the plan"] == whole.protocol["choice of the plan"]
    assert merged.protocol["plan"] == whole.protocol["plan"]


def test_overlapping_parts_are_counted_once(tmp_path: Path) -> None:
    frames = structures()
    whole = audit(InBatches(), frames, plan=PLAN, journal=tmp_path / "whole.jsonl")
    first, second = in_parts(tmp_path, frames, 2)
    thirds = in_parts(tmp_path / "thirds", frames, 3)
    for paths in ([first, first, second], [second, *thirds, first], [tmp_path / "whole.jsonl", thirds[1]]):
        assert comparable(merge(paths)) == comparable(whole)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    paths = in_parts(tmp_path, structures(), 4)
    kept = paths[3].read_bytes().splitlines(keepends=True)
    paths[3].write_bytes(b"".join(kept[:3]))
    report = merge([paths[0], paths[3]])
    assert not report.complete
    (said,) = [note for note in report.notes if note.startswith("incomplete")]
    assert "no journal of parts 2/4, 3/4" in said
    assert f"{paths[3]} has 2 of the 10 of part 4/4" in said
    assert f"{len(report.structures)} of 40 structures" in said


def test_files_of_structures_are_put_together(tmp_path: Path) -> None:
    frames = structures(20)
    ase.io.write(tmp_path / "a.xyz", frames[:12], format="extxyz")
    ase.io.write(tmp_path / "b.xyz", frames[10:], format="extxyz")  # two are in both
    for name in "ab":
        audit(Tilted(), tmp_path / f"{name}.xyz", plan=PLAN, journal=tmp_path / f"{name}.jsonl")
    merged = merge([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    both = [*ase.io.read(tmp_path / "a.xyz", ":"), *ase.io.read(tmp_path / "b.xyz", "2:")]
    whole = audit(Tilted(), both, plan=PLAN)
    assert merged.complete
    assert len(merged.structures) == 20
    assert merged["forces"].equiv == whole["forces"].equiv
    assert merged["energy"].rms_interval == whole["energy"].rms_interval
    assert "a.xyz, " in merged.source


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"plan": RotationPlan("klein", replicates=4, seed=1)}, r"plan: .*seed 1 → .*seed 0"),
        ({"loss": "huber-norm"}, "loss: huber-norm → mse"),
        ({"fingerprint": "other"}, "fingerprint: other → "),
        ({"name": "another"}, "model: another → InBatches"),
    ],
)
def test_parts_of_other_audits_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    frames = structures(4)
    audit(InBatches(), frames, plan=PLAN, part="1/2", journal=tmp_path / "1.jsonl")
    audit(InBatches(), frames, **{"plan": PLAN, **change}, part="2/2", journal=tmp_path / "2.jsonl")
    with pytest.raises(EquivProbeError, match=said):
        merge([tmp_path / "1.jsonl", tmp_path / "2.jsonl"])


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"kind": "report"}\n')
    (tmp_path / "old.jsonl").write_text('{"equiv_probe_journal": 1, "question": {}}\n')
    for name, said in (("none.jsonl", "no file"), ("report.json", "no journal"), ("old.jsonl", "of version 1")):
        with pytest.raises(EquivProbeError, match=said):
            merge([tmp_path / name])
    with pytest.raises(EquivProbeError, match="no journals"):
        merge([])


@pytest.mark.parametrize("part", ["3", "0/2", "3/2", "a/b", "1/2/3", "-1/2"])
def test_an_impossible_part_is_refused(part: str) -> None:
    with pytest.raises(EquivProbeError, match="part"):
        audit(Tilted(), structures(4), plan=PLAN, part=part)


def test_more_parts_than_there_is_work_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EquivProbeError, match="at most 4 parts"):
        audit(Tilted(), structures(4), plan=PLAN, part="1/5")
    audit(Tilted(), structures(4), plan=PLAN, part="1/4", journal=tmp_path / "j.jsonl")
    with pytest.raises(EquivProbeError, match="of part 1/4, and part 2/4"):
        audit(Tilted(), structures(4), plan=PLAN, part="2/4", journal=tmp_path / "j.jsonl")


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    ase.io.write("m.xyz", structures(6), format="extxyz")

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            build()(list(arguments))
        return int(ended.value.code or 0)

    common = ["audit", "lj", "m.xyz", "--design", "klein"]
    common[1] = "ase.calculators.lj:LennardJones"
    assert run(*common, "-o", "whole.json") == 0
    for part in ("1/2", "2/2"):
        assert run(*common, "--part", part, "-o", f"parts/{part[0]}.json") == 0
    assert run("merge", "parts/1.jsonl", "parts/2.jsonl", "-o", "merged.json") == 0
    assert comparable(Report.load(tmp_path / "merged.json")) == comparable(Report.load(tmp_path / "whole.json"))
    capsys.readouterr()
    assert run("merge", "parts/2.jsonl", "-o", "half.json", "--json") == 1
    assert "no journal of part 1/2" in json.loads(capsys.readouterr().out)["notes"][0]
    assert run(*common, "--part", "1/2") == 0
    assert (tmp_path / "audit-ase.calculators.lj-LennardJones-m.xyz-1-of-2.json").exists()
