"""Every quantity rotates by the same Haar rotation, and nothing that came in is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import schnetpack as spk
import torch
from hydra.utils import instantiate
from schnetpack.data import ASEAtomsData, AtomsDataModule
from torch import Tensor

from equiv_probe.errors import EquivProbeError
from equiv_probe.rotations.haar import haar
from equiv_probe_schnetpack import RandomRotation
from equiv_probe_schnetpack.random_rotation import rotated

from .spk_models import CUTOFF, copied, crystals, potential, sample, structures

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

NEIGHBOURS = spk.transform.MatScipyNeighborList(cutoff=CUTOFF)


def full(atoms: Atoms) -> dict[str, Tensor]:
    """A sample with everything that SchNetPack has a name for."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n = len(atoms)
    one = spk.atomistic.PairwiseDistances()(sample(atoms, 0, (NEIGHBOURS,)))
    one |= {"electric_field": draw(1, 3), "magnetic_field": draw(1, 3), "nuclear_magnetic_moments": draw(n, 3)}
    one |= {"polarizability": draw(1, 3, 3), "shielding": draw(n, 3, 3), "dipole_derivatives": draw(n, 3, 3)}
    return one | {"polarizability_derivatives": draw(n, 3, 3, 3), "partial_charges": draw(n, 1), "masses": draw(n)}


def rotation_between(before: Tensor, after: Tensor) -> Tensor:
    """The matrix that takes rows to rows, by least squares."""
    return torch.linalg.lstsq(before, after).solution.mT


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("atoms", [structures()[0], crystals()[1]], ids=["molecule", "crystal"])
def test_every_quantity_rotates_by_the_same_rotation(atoms: Atoms, improper: bool) -> None:
    torch.manual_seed(0)
    signs = set()
    for _ in range(8):
        before = full(atoms)
        after = RandomRotation(improper=improper)(before)
        forces = before["forces"] if len(atoms) > 2 else torch.cat([before["forces"], before["electric_field"]])
        rotated_forces = after["forces"] if len(atoms) > 2 else torch.cat([after["forces"], after["electric_field"]])
        g = rotation_between(forces, rotated_forces)
        sign = torch.linalg.det(g)
        signs.add(round(float(sign)))
        torch.testing.assert_close(g @ g.T, torch.eye(3).double())
        for name in ("_positions", "_cell", "_offsets", "_Rij", "forces", "dipole_moment", "electric_field"):
            torch.testing.assert_close(after[name], before[name] @ g.T, msg=name)
        for name in ("magnetic_field", "nuclear_magnetic_moments"):
            torch.testing.assert_close(after[name], sign * before[name] @ g.T, msg=name)
        for name in ("stress", "polarizability", "shielding", "dipole_derivatives"):
            torch.testing.assert_close(after[name], torch.einsum("ij,ajk,lk->ail", g, before[name], g), msg=name)
        third = torch.einsum("ia,jb,kc,nabc->nijk", g, g, g, before["polarizability_derivatives"])
        torch.testing.assert_close(after["polarizability_derivatives"], third)
        for name in ("energy", "partial_charges", "masses", "_atomic_numbers", "_n_atoms", "_pbc", "_idx_i"):
            assert torch.equal(after[name], before[name]), name
        # The neighbour list stays true: pair vectors from rotated positions and offsets are the rotated pair vectors.
        again = spk.atomistic.PairwiseDistances()({**after})["_Rij"]
        torch.testing.assert_close(again, after["_Rij"])
    assert signs == ({1, -1} if improper else {1})


def test_what_came_in_is_left_alone() -> None:
    before = full(crystals()[1])
    kept, versions = copied(before), {name: value._version for name, value in before.items()}
    after = RandomRotation()(before)
    assert list(before) == list(kept)
    for name, value in before.items():
        assert torch.equal(value, kept[name]), name
        assert value._version == versions[name], name
    for name in ("_positions", "_cell", "_offsets", "_Rij", "forces", "stress", "dipole_moment"):
        assert after[name].data_ptr() != before[name].data_ptr(), name
        assert not torch.equal(after[name], before[name]), name


def test_rotations_are_haar() -> None:
    torch.manual_seed(0)
    transform, eye = RandomRotation(), {"_positions": torch.eye(3).double()}
    found = torch.stack([transform(eye)["_positions"].T for _ in range(4000)])
    # 9 entries of variance 1/3: five standard errors of 4000 draws.
    assert float(found.mean(0).abs().max()) < 5 * (1 / 3 / 4000) ** 0.5
    torch.testing.assert_close(found.square().mean(0), torch.full((3, 3), 1 / 3).double(), atol=0.025, rtol=0)
    angle = torch.rad2deg(torch.arccos(((found.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1))).mean()
    assert float(angle) == pytest.approx(126.5, abs=2.5), "Euler angles drawn uniformly would not give it"


@pytest.mark.parametrize("kind", ["schnet", "painn"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_an_equivariant_model_cannot_tell(kind: str, order: str) -> None:
    """Before or after the neighbour list: energies stay, forces and stress rotate with the labels."""
    torch.manual_seed(3)
    atoms = crystals()[1]
    model = potential(kind, stress=True)
    plain = sample(atoms, 0, (NEIGHBOURS,))
    rotate = RandomRotation()
    augmented = sample(atoms, 0, (rotate, NEIGHBOURS) if order == "before" else (NEIGHBOURS, rotate))
    g = rotation_between(plain["_cell"][0], augmented["_cell"][0])
    for one in (plain, augmented):
        one["_idx_m"] = torch.zeros(len(atoms), dtype=torch.long)
    expected, found = model(plain), model(augmented)
    torch.testing.assert_close(found["energy"], expected["energy"])
    torch.testing.assert_close(found["forces"], expected["forces"] @ g.T)
    torch.testing.assert_close(found["stress"], g @ expected["stress"] @ g.T)


def test_single_precision_keeps_its_type_and_rotates_to_rounding() -> None:
    one = {name: v.float() if v.is_floating_point() else v for name, v in full(crystals()[0]).items()}
    g = haar(1, torch.Generator().manual_seed(0))[0]
    exact = rotated(full(crystals()[0]), g)
    for name, value in rotated(one, g).items():
        assert value.dtype == one[name].dtype
        torch.testing.assert_close(value.double(), exact[name].double(), rtol=2e-6, atol=2e-6)


def test_magnitudes_stay_and_what_is_not_known_is_asked_about() -> None:
    one = sample(structures()[1]) | {"dipole_moment": torch.tensor([1.8]), "spins": torch.randn(3, 3)}
    assert torch.equal(RandomRotation()(one)["dipole_moment"], one["dipole_moment"])
    with pytest.raises(EquivProbeError, match=r"'F' of shape.*quantities="):
        RandomRotation()(one | {"F": torch.randn(3, 3)})
    after = RandomRotation({"F": "vector"})(one | {"F": one["forces"]})
    assert torch.equal(after["F"], after["forces"])
    assert torch.equal(RandomRotation({"F": "fixed"})(one | {"F": one["forces"]})["F"], one["forces"])
    with pytest.raises(EquivProbeError, match="arrow"):
        RandomRotation({"F": "arrow"})


def database(path: Path, atoms: list[Atoms]) -> str:
    made = ASEAtomsData.create(
        str(path / "data.db"),
        distance_unit="Ang",
        property_unit_dict={"energy": "eV", "forces": "eV/Ang"},
    )
    made.add_systems(
        [{"energy": np.array([1.0 + k]), "forces": one.positions + k} for k, one in enumerate(atoms)], atoms
    )
    return str(path / "data.db")


def modules(path: Path, order: list[Any], workers: int = 0) -> AtomsDataModule:
    return AtomsDataModule(
        database(path, structures() * 2), 2, num_train=4, num_val=2, num_test=2, num_workers=workers,
        distance_unit="Ang", transforms=[NEIGHBOURS], train_transforms=order,
        split_file=str(path / "split.npz"), pin_memory=False,
    )  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_and_every_worker_draws_its_own_rotation(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # SchNetPack leaves a lock where it runs
    torch.manual_seed(0)
    rotate = instantiate({"_target_": "equiv_probe_schnetpack.RandomRotation"})
    data = modules(tmp_path, [rotate, NEIGHBOURS, spk.transform.CastTo32()], workers)
    data.setup()
    seen = []
    for _ in range(2):
        for one in data.train_dataloader():
            first = one["_idx_m"] == 0
            # Forces were stored as the positions plus a constant for the structure: they rotate together.
            shifted = one["forces"] - one["_positions"]
            assert torch.allclose(shifted[first], shifted[first][:1].expand_as(shifted[first]), atol=1e-5)
            seen.append(shifted[first][0] / shifted[first][0].norm())
    directions = torch.stack([one for one in seen if bool(one.isfinite().all())])
    gaps = torch.cdist(directions, directions) + torch.eye(len(directions))
    assert float(gaps.min()) > 1e-3
    for one in data.val_dataloader():
        shifted = one["forces"] - one["_positions"]
        assert torch.allclose(shifted, shifted[:, :1].expand_as(shifted), atol=1e-5), "validation is not rotated"


def test_a_cached_neighbour_list_behind_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cached = spk.transform.CachedNeighborList(str(tmp_path / "cache"), NEIGHBOURS)
    with pytest.raises(EquivProbeError, match="behind"):
        modules(tmp_path, [RandomRotation(), cached]).setup()
    (tmp_path / "data.db").unlink()
    modules(tmp_path, [cached, RandomRotation()]).setup()
