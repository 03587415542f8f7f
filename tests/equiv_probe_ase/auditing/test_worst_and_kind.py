"""What an audit keeps for figures and pages: what kind of error it is, and the atoms of the worst structures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator

from equiv_probe import RotationPlan
from equiv_probe_ase import audit
from equiv_probe_ase.auditing.angular import Kinds
from equiv_probe_ase.auditing.worst_structures import WORST_STRUCTURES

if TYPE_CHECKING:
    from pathlib import Path

    from equiv_probe.results.report import Report

# z × x: gᵀ A g is of degree one alone. The rest of the force is the gradient of a spring, and respects rotation.
SWIRL = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


class Swirl(Calculator):  # type: ignore[misc]
    implemented_properties = ("energy", "forces")

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        super().calculate(atoms, properties, system_changes)
        arms = self.atoms.positions - self.atoms.positions.mean(0)
        self.results = {"energy": 0.5 * float((arms**2).sum()), "forces": -arms + 0.1 * arms @ SWIRL.T}


def molecules(count: int) -> list[Atoms]:
    rng = np.random.default_rng(0)
    return [Atoms("CNOH", rng.normal(size=(4, 3)) * (1 + 0.1 * k), info={"name": f"m{k}"}) for k in range(count)]


@pytest.fixture(scope="module")
def report() -> Report:
    return audit(Swirl(), molecules(12), plan=RotationPlan("icosahedral", 2))


def truth(atoms: Atoms) -> float:
    """``L_equiv`` of the forces: ``‖A‖² ‖x‖² / 3`` over the components, (meV/Å)²."""
    arms = atoms.positions - atoms.positions.mean(0)
    return float((100 * SWIRL**2).sum() * 100 / 3 * (arms**2).sum() / arms.size)


def test_the_spectrum_has_the_degree_that_was_planted(report: Report) -> None:
    forces = report["forces"]
    power = forces.angular["power"]
    expected = np.mean([truth(atoms) for atoms in molecules(12)])
    # A design of degree five is exact for what is of degree one, up to the rounding of four digits.
    assert forces.equiv == pytest.approx(expected, rel=1e-9)
    assert power[0] == pytest.approx(expected, rel=1e-3)
    for degree in (2, 3, 4):
        assert abs(power[degree - 1]) < 1e-3 * expected
    assert report["energy"].verdict == "round-off"  # which the swirl does not touch


def test_about_the_swirls_axis_the_forces_change_least(report: Report) -> None:
    bands = np.array(report["forces"].angular["by_axis"]).reshape(4, 12).mean(1)
    equiv = report["forces"].equiv
    for band, (low, high) in zip(bands, [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)], strict=True):
        assert band == pytest.approx(1.5 * equiv * (1 - (high**3 - low**3) / (high - low) / 3), rel=0.1)


def pooled(values: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = Kinds()
    for one in values:
        kinds.add(one)
    return kinds.pooled()


def test_the_error_bars_of_the_spectrum_are_over_structures() -> None:
    values = [
        {"weight": 1.0, "angular": {"power": [p], "power_stderr": [9.0], "rest": 0.0,
                                    "by_angle": [[2.0, 0.0], [1.0, 0.0]], "by_axis": [[1.0], [2.0]]}}
        for p in (1.0, 2.0, 3.0, 6.0)
    ]  # fmt: skip
    found = pooled(values)
    assert found["power"] == [3.0]
    assert found["stderr"] == [pytest.approx(np.std([1, 2, 3, 6], ddof=1) / 2)]
    assert found["by_angle"] == [2.0, None]
    assert found["by_axis"] == [0.5]
    one = pooled(values[:1])
    assert (one["stderr"], one["rest_stderr"]) == ([9.0], None)  # over replicates; the rest's is not known
    assert pooled([{"weight": 1.0}]) == {}


def test_improper_plans_have_no_spectrum() -> None:
    found = audit(Swirl(), molecules(2), plan=RotationPlan("tetrahedral", 4, improper=True))
    assert found["forces"].angular == {}


def test_the_worst_structures_keep_their_atoms_and_no_others_do(report: Report) -> None:
    having = [record for record in report.structures if "geometry" in record]
    ranked = sorted(report.structures, key=lambda record: -record["quantities"]["forces"]["rms"])
    worst = {record["name"] for record in ranked[:WORST_STRUCTURES]}
    assert worst <= {record["name"] for record in having}
    given = {atoms.info["name"]: atoms for atoms in molecules(12)}
    for record in having:
        atoms = given[record["name"]]
        assert record["geometry"]["symbols"] == ["C", "N", "O", "H"]
        assert np.array(record["geometry"]["positions"]) == pytest.approx(atoms.positions, abs=5e-5)
        assert record["geometry"]["cell"] is None
        arms = atoms.positions - atoms.positions.mean(0)
        by_atom = 100 * np.sqrt(2 / 3 * (arms**2).sum(1) / 3)
        assert record["quantities"]["forces"]["per_atom"] == pytest.approx(by_atom, rel=1e-3)
    for record in report.structures:
        if record not in having:
            assert "per_atom" not in record["quantities"]["forces"]


def test_a_resumed_audit_keeps_them_too(tmp_path: Path) -> None:
    first = audit(Swirl(), molecules(3), journal=tmp_path / "j.jsonl")
    again = audit(Swirl(), molecules(3), journal=tmp_path / "j.jsonl")
    assert again.structures == first.structures
    assert again.measured == first.measured
    assert "geometry" in again.structures[0]


@pytest.mark.slow
def test_a_journal_without_them_is_resumed(tmp_path: Path) -> None:
    """As one that was begun by an earlier version."""
    path = tmp_path / "j.jsonl"
    audit(Swirl(), molecules(3), journal=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[1:]:
        for values in line.get("record", line).get("quantities", {}).values():
            values.pop("angular", None)
            values.pop("per_atom", None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = audit(Swirl(), molecules(3), journal=path)
    assert found["forces"].angular == {}
    assert found["forces"].rms > 1
    found.save(tmp_path / "r.html")
    assert "What kind is it?" not in (tmp_path / "r.html").read_text()


def test_a_crystals_cell_is_kept() -> None:
    crystal = Atoms("CNOH", np.random.default_rng(1).normal(size=(4, 3)), cell=[5, 6, 7], pbc=True)
    found = audit(Swirl(), crystal)
    assert np.array(found.structures[0]["geometry"]["cell"]) == pytest.approx(np.diag([5, 6, 7]))
