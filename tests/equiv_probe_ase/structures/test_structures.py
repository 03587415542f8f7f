"""Structures from files, databases and memory, with the reference values they carry. Values are compared exactly:
nothing is computed on the way, except for units (a factor of 1000, one rounding)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import equiv_probe as ep
from equiv_probe_ase.structures.loading import load, reference_values
from equiv_probe_ase.structures.quantities import QUANTITIES, choose

if TYPE_CHECKING:
    from pathlib import Path

FORCES = np.arange(6.0).reshape(2, 3) / 7
STRESS = np.array([[0.1, 0.4, 0.5], [0.4, 0.2, 0.6], [0.5, 0.6, 0.3]])


def labelled(**info: object) -> Atoms:
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], cell=[5, 6, 7], pbc=True)
    atoms.info.update(info)
    return atoms


@pytest.mark.parametrize("prefix", ["REF_", "ref_", "dft_"])
def test_extxyz_with_reference_keys(tmp_path: Path, prefix: str) -> None:
    atoms = labelled(**{f"{prefix}energy": -3.5, f"{prefix}stress": STRESS})
    atoms.arrays[f"{prefix}forces"] = FORCES
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    (structure,) = load(tmp_path / "a.xyz")
    assert structure.reference["energy"] == -3.5
    np.testing.assert_allclose(structure.reference["forces"], FORCES, atol=1e-8)  # eight decimals in the file
    np.testing.assert_allclose(reference_values(structure, QUANTITIES["stress"]), 1e3 * STRESS, rtol=1e-12)
    assert reference_values(structure, QUANTITIES["energy"]) == pytest.approx(-1750.0)  # meV/atom, of two atoms
    assert reference_values(structure, QUANTITIES["dipole"]) is None


def test_reference_keys_come_before_attached_results() -> None:
    atoms = labelled(REF_energy=-3.5)
    atoms.calc = SinglePointCalculator(atoms, energy=-99.0, forces=FORCES)
    (structure,) = load(atoms)
    assert structure.reference["energy"] == -3.5
    np.testing.assert_array_equal(structure.reference["forces"], FORCES)


@pytest.mark.parametrize(
    "stress", [STRESS, STRESS.reshape(9), np.array([0.1, 0.2, 0.3, 0.6, 0.5, 0.4])], ids=["3x3", "nine", "voigt"]
)
def test_every_form_of_a_stress_is_the_same_tensor(stress: np.ndarray) -> None:
    (structure,) = load(labelled(REF_stress=stress))
    np.testing.assert_allclose(reference_values(structure, QUANTITIES["stress"]), 1e3 * STRESS, rtol=1e-12)


def test_ones_own_keys(tmp_path: Path) -> None:
    atoms = labelled(my_energy=-1.0, REF_energy=-3.5)
    atoms.arrays["my_forces"] = FORCES
    atoms.calc = SinglePointCalculator(atoms, energy=-99.0)
    (structure,) = load(atoms, reference={"energy": "my_energy", "forces": "my_forces"})
    assert structure.reference["energy"] == -1.0
    np.testing.assert_array_equal(structure.reference["forces"], FORCES)
    # ASE's readers move "energy" out of the info; it can still be named.
    (attached,) = load(atoms, reference={"energy": "energy"})
    assert attached.reference == {"energy": -99.0}


def test_a_key_that_no_structure_has_is_an_error_that_shows_those_there_are() -> None:
    with pytest.raises(ep.EquivProbeError, match=r"'my_enrgy'.*my_energy"):
        load([labelled(my_energy=-1.0)] * 2, reference={"energy": "my_enrgy"})
    # One that some have is no error: the others count as unlabelled.
    first, second = load([labelled(my_energy=-1.0), labelled()], reference={"energy": "my_energy"})
    assert (first.reference, second.reference) == ({"energy": -1.0}, {})


def test_a_missing_label_written_as_nan_is_none() -> None:
    (structure,) = load(labelled(REF_energy=np.nan))
    assert reference_values(structure, QUANTITIES["energy"]) is None


def frames() -> list[Atoms]:
    made = [bulk("Cu", a=a) for a in (3.5, 3.6, 3.7, 3.8)]
    for atoms in made:
        atoms.calc = EMT()
        atoms.get_forces()
        atoms.get_stress()
    return made


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.db"])
def test_files_of_several_frames_with_results_and_slices(tmp_path: Path, name: str) -> None:
    made = frames()
    if name.endswith(".db"):
        with ase.db.connect(tmp_path / name) as database:
            for atoms in made:
                database.write(atoms)
    else:
        ase.io.write(tmp_path / name, made, format="extxyz" if name.endswith("xyz") else None)
    structures = load(tmp_path / name)
    assert [s.index for s in structures] == [0, 1, 2, 3]
    assert [s.reference["energy"] for s in structures] == pytest.approx([a.get_potential_energy() for a in made])
    np.testing.assert_allclose(structures[2].reference["stress"], made[2].get_stress(), atol=1e-12)
    assert len({s.name for s in structures}) == len({s.key for s in structures}) == 4
    some = load(f"{tmp_path / name}@1:3")
    assert [s.atoms.cell.volume for s in some] == pytest.approx([made[1].cell.volume, made[2].cell.volume])
    (one,) = load(f"{tmp_path / name}@-1")
    assert one.atoms.cell.volume == pytest.approx(made[3].cell.volume)


def test_a_file_whose_name_has_an_at_sign(tmp_path: Path) -> None:
    path = tmp_path / "runs@300K" / "a@b.xyz"
    path.parent.mkdir()
    ase.io.write(path, frames(), format="extxyz")
    assert len(load(path)) == 4
    assert len(load(f"{path}@:2")) == 2


def test_names_are_the_structures_own_and_unique() -> None:
    given = [labelled(name="a"), labelled(name="a"), labelled(name="b"), labelled(), labelled(label="c")]
    assert [s.name for s in load(given)] == ["a[0]", "a[1]", "b", "structure[3]", "c"]
    assert load(molecule("H2O"))[0].name == "H2O"


def test_names_from_a_file_cannot_control_the_terminal() -> None:
    (structure,) = load(labelled(name="x\x1b[2J\r\ny\u202ez"))
    assert structure.name.isprintable()
    assert structure.name.startswith("x")


def test_keys_name_what_the_results_depend_on() -> None:
    """Or a resumed audit would report stale results for a structure that was edited."""

    def key(**changes: object) -> str:
        atoms = labelled(REF_energy=-1.0)
        for name, value in changes.items():
            if name == "positions":
                atoms.positions[0, 0] += value
            elif name == "info":
                atoms.info.update(value)
            else:
                getattr(atoms, f"set_{name}")(value)
        return load(atoms)[0].key

    changes = [
        {},
        {"positions": 1e-9},
        {"cell": [5, 6, 7.1]},
        {"pbc": [True, True, False]},
        {"chemical_symbols": ["C", "N"]},
        {"initial_magnetic_moments": [1.0, 0.0]},
        {"initial_charges": [1.0, 0.0]},
        {"tags": [0, 1]},
        {"info": {"REF_energy": -2.0}},
        {"info": {"charge": 1}},
    ]
    assert len({key(**change) for change in changes}) == len(changes)
    assert key() == key()


def test_a_box_is_put_only_around_what_has_no_cell() -> None:
    water, crystal = molecule("H2O"), bulk("Cu")
    slab = Atoms("Cu2", [[0, 0, 0], [1.8, 1.8, 0.5]], cell=[3.6, 3.6, 0], pbc=[True, True, False])
    boxed = [s.atoms for s in load([water, crystal, slab], vacuum=6.0)]
    extent = np.ptp(water.positions, axis=0)
    np.testing.assert_allclose(boxed[0].cell.lengths(), extent + 12.0, atol=1e-12)
    assert boxed[0].pbc.all()
    np.testing.assert_allclose(boxed[0].get_all_distances(), water.get_all_distances(), atol=1e-12)
    assert boxed[1].cell.tolist() == crystal.cell.tolist()
    # The slab keeps its periods; only the direction without one gets a box.
    np.testing.assert_allclose(boxed[2].cell.lengths(), [3.6, 3.6, 12.5], atol=1e-12)
    assert water.cell.rank == 0  # the caller's own


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.xyz", "no file nowhere.xyz"),
        ([], "no structures"),
        ([molecule("H2O"), "H2O"], "a str among the structures"),
    ],
)
def test_errors_say_what_was_found(source: object, message: str) -> None:
    with pytest.raises(ep.EquivProbeError, match=message):
        load(source)


def test_an_unreadable_file_and_an_empty_slice(tmp_path: Path) -> None:
    (tmp_path / "broken.xyz").write_text("this is\nno structure\n")
    with pytest.raises(ep.EquivProbeError, match="which ASE cannot read"):
        load(tmp_path / "broken.xyz")
    ase.io.write(tmp_path / "a.xyz", frames(), format="extxyz")
    with pytest.raises(ep.EquivProbeError, match=r"no structures|cannot read"):
        load(f"{tmp_path / 'a.xyz'}@10:")


def test_quantities_that_are_declared_keep_their_unit() -> None:
    """A declaration says how a property rotates; it is still reported per atom."""
    atoms = labelled()
    declared = choose(["energy", "magmoms"], ["energy"], ep.Schema(inputs={}, outputs={"energy": ep.pseudoscalar}))
    assert declared["energy"].unit == "meV/atom"
    assert declared["energy"].values(-3.0, atoms) == QUANTITIES["energy"].values(-3.0, atoms) == -1500.0
    assert declared["energy"].representation == ep.pseudoscalar


def test_non_collinear_moments_have_to_be_declared() -> None:
    with pytest.raises(ep.EquivProbeError, match=r"magmoms of shape \(2, 3\).*ep\.axial"):
        QUANTITIES["magmoms"].values(np.ones((2, 3)), labelled())
    declared = choose(["magmoms"], None, ep.Schema(inputs={}, outputs={"magmoms": ep.axial}))
    assert declared["magmoms"].values(np.ones((2, 3)), labelled()).tolist() == [[1e3] * 3] * 2


def test_unknown_properties_are_errors() -> None:
    with pytest.raises(ep.EquivProbeError, match="property 'polarisability'"):
        choose(["energy"], ["polarisability"])
    with pytest.raises(ep.EquivProbeError, match="what the calculator has: energy"):
        choose(["energy"], ["forces"])
    with pytest.raises(ep.EquivProbeError, match="at least one of"):
        choose(["polarisability"], None)
