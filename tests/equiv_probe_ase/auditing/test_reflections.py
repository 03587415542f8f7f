"""Improper rotations with models that take a left-handed cell's determinant for its volume."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from equiv_probe import RotationPlan
from equiv_probe_ase import TwirledCalculator, audit


class Strained(Calculator):  # type: ignore[misc]
    """Pair energies ``½ Σ |r|²`` over a cell's vectors: the stress is exact, or over the determinant of the cell."""

    implemented_properties: ClassVar[list[str]] = ["energy", "stress"]

    def __init__(self, *, signed: bool) -> None:
        super().__init__()
        self.signed = signed

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        cell = self.atoms.cell.array
        volume = np.linalg.det(cell) if self.signed else self.atoms.get_volume()
        stress = cell.T @ cell / volume
        self.results = {
            "energy": 0.5 * float((cell**2).sum()),
            "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


@pytest.fixture
def skewed() -> Atoms:
    return Atoms("Cu2", [[0, 0, 0], [1, 2, 1]], cell=[[4, 0.3, 0], [0, 5, 0.2], [0.4, 0, 6]], pbc=True)


def test_rotating_a_cell_by_reflections_is_right(skewed: Atoms) -> None:
    """What takes the volume as ASE does is exact under both hands."""
    report = audit(Strained(signed=False), skewed, plan=RotationPlan("klein", 4, improper=True))
    assert report["stress"].rms < 1e-9
    assert not [note for note in report.notes if "reflected" in note]


def test_a_signed_volume_is_named_with_what_there_is_without_it(skewed: Atoms) -> None:
    report = audit(Strained(signed=True), skewed, plan=RotationPlan("klein", 4, improper=True))
    (note,) = [note for note in report.notes if "reflected" in note]
    assert "divides by the determinant of the cell" in note
    # All of the stress: half of the copies have it with the other sign.
    assert report["stress"].verdict == "broken"
    cell = skewed.cell.array
    size = np.linalg.norm(cell.T @ cell) / 3 / skewed.get_volume()
    assert report["stress"].rms == pytest.approx(1e3 * size, rel=0.05)
    assert f"off by {report['stress'].rms:.2g} meV/Å³" in note
    assert float(note.split("rotations alone by ")[1].split()[0]) < 1e-9
    proper = audit(Strained(signed=True), skewed, plan=RotationPlan("klein", 4))
    assert proper["stress"].rms < 1e-9
    assert not [note for note in proper.notes if "reflected" in note]


def test_reference_values_do_not_hide_it(skewed: Atoms) -> None:
    skewed.info["REF_stress"] = np.zeros(6)
    report = audit(Strained(signed=True), skewed, plan=RotationPlan("klein", 4, improper=True))
    assert report["stress"].labelled is not None
    assert any("divides by the determinant of the cell" in note for note in report.notes)


@pytest.mark.parametrize("atoms_per_call", [2, None])
def test_an_average_that_vanishes_warns(skewed: Atoms, atoms_per_call: int | None) -> None:
    """Also where the two hands are never in the same pass."""
    plan = RotationPlan("klein", 1, improper=True)
    skewed.calc = TwirledCalculator(Strained(signed=True), plan, atoms_per_call=atoms_per_call)
    with pytest.warns(UserWarning, match="the stress changes sign .* take improper=False"):
        stress = skewed.get_stress()
    assert abs(stress).max() < 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        skewed.calc = TwirledCalculator(Strained(signed=False), plan, atoms_per_call=atoms_per_call)
        assert abs(skewed.get_stress()).max() > 0.1
        skewed.calc = TwirledCalculator(Strained(signed=True), RotationPlan("klein", 1))
        assert abs(skewed.get_stress()).max() > 0.1
