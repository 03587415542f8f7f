"""Rotated structures: what has a direction rotates, nothing else changes, and the caller's atoms stay as they are.

Tolerances are float64 rounding of coordinates of some ten ångström (1e-12), unless a test says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule

import equiv_probe as ep
from equiv_probe.rotations.haar import haar
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from ase import Atoms

ROUNDING = 1e-12


@pytest.fixture(params=[1, -1], ids=["proper", "improper"])
def g(request: pytest.FixtureRequest) -> np.ndarray:
    return request.param * haar(1, torch.Generator().manual_seed(5))[0].numpy()


def ethanol() -> Atoms:
    """Ethanol off the origin, in a triclinic periodic cell, partly outside of it."""
    atoms = molecule("CH3CH2OH")
    rng = np.random.default_rng(0)
    atoms.positions += rng.normal(scale=0.05, size=(9, 3)) + np.array([6.0, -1.0, 2.0])
    atoms.set_cell([[7.0, 0.3, 0.0], [-1.0, 8.0, 0.5], [0.2, 0.4, 9.0]])
    atoms.pbc = True
    return atoms


def rotate(atoms: Atoms, rotation: np.ndarray, **options: object) -> Atoms:
    return Rotator(atoms, **options).copies(torch.from_numpy(rotation)[None])[0]


def everything(atoms: Atoms) -> dict[str, object]:
    """A snapshot of all that an Atoms holds, comparable with ``==``."""
    arrays = {name: values.tolist() for name, values in atoms.arrays.items()}
    rest = {"cell": atoms.cell.tolist(), "pbc": atoms.pbc.tolist(), "celldisp": atoms.get_celldisp().tolist()}
    info = {name: np.asarray(value).tolist() for name, value in atoms.info.items()}
    return {**arrays, **rest, "info": info, "constraints": [repr(vars(c)) for c in atoms.constraints]}


def test_positions_rotate_about_the_centroid_and_the_cell_about_the_origin(g: np.ndarray) -> None:
    atoms = ethanol()
    rotated, centre = rotate(atoms, g), atoms.positions.mean(0)
    np.testing.assert_allclose(rotated.positions, (atoms.positions - centre) @ g.T + centre, atol=ROUNDING)
    np.testing.assert_allclose(rotated.cell.array, atoms.cell.array @ g.T, atol=ROUNDING)
    assert rotated.pbc.tolist() == atoms.pbc.tolist()
    assert rotated.numbers.tolist() == atoms.numbers.tolist()
    np.testing.assert_allclose(rotated.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=ROUNDING)
    assert abs(rotated.get_volume() - atoms.get_volume()) < 1e-9  # 500 Å³


def test_fractional_coordinates_are_kept_and_nothing_is_wrapped(g: np.ndarray) -> None:
    atoms = ethanol()
    before = atoms.get_scaled_positions(wrap=False)
    assert before.min() < 0  # some atoms lie outside of the cell, and have to stay there
    about_origin = rotate(atoms, g, center="origin").get_scaled_positions(wrap=False)
    np.testing.assert_allclose(about_origin, before, atol=ROUNDING)
    # About any other point all atoms shift together relative to the cell.
    shift = rotate(atoms, g).get_scaled_positions(wrap=False) - before
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=ROUNDING)


@pytest.mark.parametrize(
    ("center", "fixed_point"),
    [("centroid", None), ("origin", [0, 0, 0]), ("cell", [3.1, 4.35, 4.75]), ([1.0, 2.0, 3.0], [1, 2, 3])],
)
def test_the_centre_is_the_fixed_point(g: np.ndarray, center: object, fixed_point: list[float] | None) -> None:
    atoms = ethanol()
    there = atoms.positions.mean(0) if fixed_point is None else np.array(fixed_point, float)
    rotated = rotate(atoms, g, center=center)
    np.testing.assert_allclose(rotated.positions - there, (atoms.positions - there) @ g.T, atol=ROUNDING)


def test_an_unknown_centre_says_which_there_are() -> None:
    with pytest.raises(ep.EquivProbeError, match="centroid"):
        rotate(ethanol(), np.eye(3), center="middle")


def test_momenta_moments_and_cell_displacement(g: np.ndarray) -> None:
    atoms = ethanol()
    rng = np.random.default_rng(1)
    momenta, moments = rng.normal(size=(9, 3)), rng.normal(size=(9, 3))
    atoms.set_momenta(momenta)
    atoms.set_initial_magnetic_moments(moments)
    atoms.set_celldisp([0.1, 0.2, 0.3])
    atoms.set_initial_charges(rng.normal(size=9))
    rotated = rotate(atoms, g)
    np.testing.assert_allclose(rotated.get_momenta(), momenta @ g.T, atol=ROUNDING)
    # Magnetic moments are axial: the inversion leaves them alone.
    np.testing.assert_allclose(rotated.get_initial_magnetic_moments(), np.linalg.det(g) * moments @ g.T, atol=ROUNDING)
    np.testing.assert_allclose(rotated.get_celldisp().ravel(), g @ [0.1, 0.2, 0.3], atol=ROUNDING)
    assert rotated.get_initial_charges().tolist() == atoms.get_initial_charges().tolist()


def test_collinear_moments_are_numbers(g: np.ndarray) -> None:
    atoms = ethanol()
    atoms.set_initial_magnetic_moments(np.arange(9.0))
    assert rotate(atoms, g).get_initial_magnetic_moments().tolist() == list(range(9))


def test_an_untouched_cell_displacement_keeps_ases_shape(g: np.ndarray) -> None:
    atoms = ethanol()
    assert rotate(atoms, g).get_celldisp().shape == atoms.get_celldisp().shape


def test_further_inputs_rotate_as_the_schema_says(g: np.ndarray) -> None:
    atoms = ethanol()
    field, dipoles, tags = np.array([0.1, 0.0, 0.3]), np.arange(27.0).reshape(9, 3), np.arange(9)
    atoms.info["field"] = field
    atoms.arrays["dipoles"] = dipoles
    atoms.arrays["kind"] = tags
    extra = {"field": ep.vector, "dipoles": ep.axial, "kind": ep.fixed}
    rotated = rotate(atoms, g, extra=extra)
    np.testing.assert_allclose(rotated.info["field"], g @ field, atol=ROUNDING)
    np.testing.assert_allclose(rotated.arrays["dipoles"], np.linalg.det(g) * dipoles @ g.T, atol=1e-11)
    assert rotated.arrays["kind"].tolist() == tags.tolist()
    assert rotated.arrays["kind"].dtype == tags.dtype  # integers stay integers
    undeclared = rotate(atoms, g)
    assert undeclared.info["field"].tolist() == field.tolist()
    with pytest.raises(ep.EquivProbeError, match="'flux'"):
        rotate(atoms, g, extra={"flux": ep.vector})


def test_the_callers_atoms_are_not_touched(g: np.ndarray) -> None:
    atoms = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    atoms.set_momenta(np.ones((8, 3)))
    atoms.info["field"] = np.ones(3)
    before = everything(atoms)
    rotator = Rotator(atoms, extra={"field": ep.vector})
    rotated = [
        *rotator.copies(torch.from_numpy(g)[None]),
        *rotator.round_trips(torch.from_numpy(g)[None], torch.float32),
    ]
    for one in rotated:
        for values in (*one.arrays.values(), one.cell.array, one.info["field"]):
            values[...] = 0  # nor do the copies share memory with it
        one.pbc = False
    assert everything(atoms) == before


@pytest.mark.parametrize(("precision", "unit"), [(torch.float32, 2.0**-24), (torch.float64, 2.0**-53)])
def test_round_trips_differ_by_rounding_only(precision: torch.dtype, unit: float) -> None:
    atoms = ethanol()
    trips = Rotator(atoms).round_trips(haar(3, torch.Generator().manual_seed(1)), precision)
    for trip in trips:
        change = np.abs(trip.positions - atoms.positions).max()
        # A dozen roundings of numbers below 8 Å.
        assert 0 < change < 12 * unit * np.abs(atoms.positions).max()
        assert np.abs(trip.cell.array - atoms.cell.array).max() < 12 * unit * 9
    assert not np.array_equal(trips[0].positions, trips[1].positions)


def test_a_molecule_without_a_cell_and_a_slab_stay_what_they_are(g: np.ndarray) -> None:
    gas = rotate(molecule("H2O"), g)
    assert gas.cell.rank == 0
    assert not gas.pbc.any()
    slab = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    assert rotate(slab, g).pbc.tolist() == [True, True, False]
    flat = bulk("Cu")
    flat.cell[2] = 0
    assert rotate(flat, g).cell.rank == 2


def test_copies_are_independent_of_each_other() -> None:
    atoms = ethanol()
    atoms.arrays["weight"] = np.ones(9)
    first, second = Rotator(atoms, extra={"weight": ep.scalar}).copies(haar(2, torch.Generator().manual_seed(0)))
    first.arrays["weight"][0] = 5
    assert second.arrays["weight"].tolist() == [1.0] * 9
