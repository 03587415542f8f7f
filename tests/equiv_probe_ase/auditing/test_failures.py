"""A structure that fails is listed with its reason, and changes nothing for the others: compared bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixConstraint

import equiv_probe as ep
from equiv_probe.testing import CentralForces, LinearField, QuadraticEnergy
from equiv_probe_ase import audit

PLAN = ep.RotationPlan("klein", replicates=4)
ARGON, XENON = 18, 54
UNKNOWN, POISON, EMPTY = 7, 23, 41


def sixty() -> list[Atoms]:
    made = []
    for index in range(60):
        atoms = molecule(("H2O", "CH4", "CO", "CH3OH")[index % 4])
        atoms.rattle(0.05, seed=index)
        made.append(atoms)
    return made


def measured_of(record: dict[str, Any]) -> dict[str, Any]:
    """What was measured on a structure, without the atoms: those stay with the worst alone, which depends on others."""
    plain = {key: value for key, value in record.items() if key != "geometry"}
    quantities = record["quantities"].items()
    return {
        **plain,
        "quantities": {name: {**found, "per_atom": None, "worst_atoms": None} for name, found in quantities},
    }


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True], ids=["loop", "batched"])
def test_three_of_sixty_fail(planted: Any, batched: Any, quadratic: QuadraticEnergy, together: bool) -> None:
    calculator = (batched if together else planted)(quadratic, unknown=ARGON, poison=XENON)
    clean, spoilt = sixty(), sixty()
    spoilt[UNKNOWN][0].symbol, spoilt[POISON][0].symbol = "Ar", "Xe"
    spoilt[EMPTY] = Atoms()
    before = audit(calculator, clean, plan=PLAN)
    report = audit(calculator, spoilt, plan=PLAN)
    assert len(report.structures) == 57
    failed = {entry["name"]: entry["error"] for entry in report.failures}
    assert set(failed) == {f"structure[{index}]" for index in (UNKNOWN, POISON, EMPTY)}
    assert "no parameters for Z = 18" in failed[f"structure[{UNKNOWN}]"]
    assert "non-finite predictions of 'forces'" in failed[f"structure[{POISON}]"]
    assert "empty structure" in failed[f"structure[{EMPTY}]"]
    rest = [record for record in before.structures if record["index"] not in {UNKNOWN, POISON, EMPTY}]
    assert [measured_of(record) for record in report.structures] == [measured_of(record) for record in rest]
    assert all(np.isfinite([m.rms, m.floor, m.equiv_stderr]).all() for m in report.measured)
    assert "57 of 60 structures measured, 3 failed and are listed" in report.notes


def test_when_everything_fails_the_report_says_so(planted: Any, quadratic: QuadraticEnergy) -> None:
    report = audit(planted(quadratic, unknown=ARGON), [Atoms("Ar2", [[0, 0, 0], [0, 0, d]]) for d in (3, 4)], plan=PLAN)
    assert (list(report.structures), report.measured) == ([], [])
    assert len(report.failures) == 2
    assert "no parameters for Z = 18" in str(report)


def test_a_model_that_needs_a_cell_is_said_to() -> None:
    class InFractions(EMT):
        def calculate(self, *args: Any) -> None:
            super().calculate(*args)
            np.linalg.inv(self.atoms.cell.array)

    (failure,) = audit(InFractions(), molecule("CO")).failures
    assert "Singular matrix (there is no cell, and this model may need one: --vacuum 6" in failure["error"]
    assert not audit(InFractions(), molecule("CO"), vacuum=6.0).failures


def test_positions_that_are_not_finite(planted: Any, mixed: list[Atoms]) -> None:
    mixed[0].positions[0, 0] = np.nan
    mixed[1].cell[0, 0] = np.inf
    report = audit(planted(CentralForces()), mixed, plan=PLAN)
    assert [entry["index"] for entry in report.structures] == [2, 3]
    assert all("finite" in entry["error"] for entry in report.failures)


def test_a_structure_without_a_declared_input(planted: Any, mixed: list[Atoms]) -> None:
    """It fails; the others, which have it, do not."""
    for atoms in mixed[1:]:
        atoms.info["field"] = np.array([0.0, 0.0, 1.0])
    schema = ep.Schema(inputs={"field": ep.vector}, outputs={})
    report = audit(planted(LinearField(torch.eye(3))), mixed, plan=PLAN, schema=schema)
    assert len(report.structures) == 3
    assert "no 'field'" in report.failures[0]["error"]


def test_an_output_of_the_wrong_shape(planted: Any, mixed: list[Atoms]) -> None:
    def field(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hessian": x.new_ones(3, 3) if len(x) == 3 else x.new_ones(2)}  # water is right

    schema = ep.Schema(inputs={}, outputs={"hessian": ep.tensor(2)})
    report = audit(planted(field, names=["hessian"]), mixed, plan=PLAN, schema=schema)
    assert [entry["name"] for entry in report.structures] == ["structure[0]"]
    assert all("expected trailing axes (3, 3)" in entry["error"] for entry in report.failures)


def test_noise_that_is_sometimes_not_finite_in_the_floor(planted: Any, mixed: list[Atoms]) -> None:
    """A NaN in the round trips alone leaves the floor of that structure unknown, and no other."""

    class Moody(planted):
        def evaluate(self, atoms: Atoms) -> dict[str, Any]:
            results = super().evaluate(atoms)
            # The first three evaluations of a water after the plain one are its round trips.
            self.waters = getattr(self, "waters", 0) + (len(atoms) == 3)
            if len(atoms) == 3 and self.waters in {3, 4, 5}:
                results["forces"] = results["forces"] * np.nan
            return results

    for rel_err in (None, 0.5):
        report = audit(Moody(LinearField(torch.diag(torch.tensor([1.0, 2.0, 3.0])))), mixed, rel_err=rel_err)
        assert np.isfinite(report["forces"].floor)
        assert report["forces"].verdict == "broken"


@pytest.mark.slow
def test_labels_of_the_wrong_shape_are_left_out_and_told(planted: Any, mixed: list[Atoms]) -> None:
    mixed[0].info["REF_forces"] = np.zeros((5, 3))
    for atoms in mixed[1:]:
        atoms.arrays["REF_forces"] = np.zeros((len(atoms), 3))
    report = audit(planted(LinearField(torch.eye(3))), mixed, plan=PLAN)
    assert len(report.structures) == 4  # the symmetry error needs no labels
    assert report["forces"].labelled is not None
    assert report["forces"].labelled.structures == 3
    assert any("(5, 3)" in note and "not used" in note for note in report.notes)


def test_a_stress_that_is_claimed_and_never_given(planted: Any, mixed: list[Atoms]) -> None:
    """The smallest structure is a molecule, which has no stress: the claim has to be tried on a crystal."""
    calculator = planted(LinearField(torch.eye(3)), names=["forces", "stress"])
    report = audit(calculator, mixed, plan=PLAN)
    assert len(report.structures) == len(mixed)
    assert {m.name for m in report.measured} == {"forces"}


def test_properties_that_were_asked_for_are_not_dropped(planted: Any, mixed: list[Atoms]) -> None:
    calculator = planted(CentralForces(), names=["energy", "forces", "dipole"])
    report = audit(calculator, mixed[0], plan=PLAN, properties=["forces", "dipole"])
    assert "no dipole in the results" in report.failures[0]["error"]


class Unheard(FixConstraint):
    """A constraint of somebody else's, which cannot be rotated."""

    def adjust_positions(self, atoms: Atoms, new: np.ndarray) -> None:
        pass

    def adjust_forces(self, atoms: Atoms, forces: np.ndarray) -> None:
        pass


def test_a_constraint_that_cannot_be_rotated_is_noted(planted: Any) -> None:
    crystal = bulk("NaCl", "rocksalt", 5.64)
    crystal.set_constraint(Unheard())
    report = audit(planted(CentralForces()), crystal, plan=PLAN)
    assert report["forces"].verdict == "round-off"
    assert any("Unheard" in note for note in report.notes)


@pytest.mark.parametrize("wrong", [{"vacuum": -1.0}, {"vacuum": float("nan")}, {"atoms_per_call": 0}], ids=str)
def test_numbers_that_must_be_positive(wrong: dict[str, Any]) -> None:
    with pytest.raises(ep.EquivProbeError, match="a positive number"):
        audit(EMT(), molecule("CO"), **wrong)
