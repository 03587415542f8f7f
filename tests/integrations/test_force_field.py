"""The demo's transformer force field: its calculator, its training, its data, and the figures its README states."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read

from .studies import module_of, modules_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType, SimpleNamespace

FOLDER = Path(__file__).parents[2] / "integrations" / "force_field"
PROPERTIES = ["energy", "forces"]
ROUNDING = 2e-4  # eV and eV/Å: float32 noise of a network whose forces reach 20 eV/Å, with a margin


@pytest.fixture(scope="module")
def ff() -> Iterator[SimpleNamespace]:
    """The integration's modules, in the order of their imports; gone from `sys.modules` afterwards."""
    with modules_of((FOLDER, ("transformer", "labelled", "evaluate", "train"))) as found:
        yield found


@pytest.fixture(scope="module")
def calc(ff: SimpleNamespace) -> Any:
    return ff.transformer.calculator()


@pytest.fixture(scope="module")
def structures() -> list[Atoms]:
    return read(FOLDER / "data" / "molecules.extxyz", ":")


@pytest.fixture(scope="module")
def heldout(ff: SimpleNamespace) -> Any:
    return ff.labelled.load(ff.evaluate.HELD_OUT)


@pytest.fixture(scope="module")
def make_data() -> Iterator[ModuleType]:
    pytest.importorskip("rdkit")
    with pytest.MonkeyPatch.context() as patch:
        yield module_of(FOLDER / "make_data.py", patch=patch)


def bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions)


def rotated(atoms: Atoms, rotation: np.ndarray) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions @ rotation.T)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def documented(pattern: str) -> tuple[float, ...]:
    """Return the figures that the README states."""
    found = re.search(pattern, (FOLDER / "README.md").read_text())
    assert found is not None, f"README.md has no line like {pattern}"
    return tuple(float(figure) for figure in found.groups())


# --- the calculator


def test_loads_by_path_alone() -> None:
    """The demo executes the file without registering it as a module."""
    module = module_of(FOLDER / "transformer.py", "anything")
    assert "anything" not in sys.modules
    atoms = molecule("CH3OH")
    atoms.calc = module.calculator()
    assert atoms.get_forces().dtype == np.float64
    assert atoms.get_potential_energy() == atoms.get_potential_energy(force_consistent=True)
    assert atoms.calc.dtype == torch.float32
    assert module.calculator(dtype="float64").dtype == torch.float64


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", ROUNDING), ("float64", 1e-11)])
def test_batch_equals_one_at_a_time(ff: SimpleNamespace, structures: list[Atoms], dtype: str, tolerance: float) -> None:
    calc = ff.transformer.calculator(dtype=dtype)
    mixed = [bare(atoms) for atoms in structures[::7]]
    assert len({len(atoms) for atoms in mixed}) > 3
    for atoms, found in zip(mixed, calc.calculate_batch(mixed, PROPERTIES), strict=True):
        atoms.calc = calc
        assert list(found) == PROPERTIES
        assert isinstance(found["energy"], float)
        np.testing.assert_allclose(found["energy"], atoms.get_potential_energy(), rtol=0, atol=tolerance)
        np.testing.assert_allclose(found["forces"], atoms.get_forces(), rtol=0, atol=tolerance)


def test_empty_batch(calc: Any) -> None:
    assert calc.calculate_batch([], PROPERTIES) == []


def test_padded_slots_do_not_leak(ff: SimpleNamespace, calc: Any, structures: list[Atoms]) -> None:
    """Whatever stands in a padded slot, the output is the same to the last bit."""
    positions, species = (torch.as_tensor(array) for array in ff.transformer.padded(structures[:9:4]))
    positions = positions.float()
    rubbish = torch.where(species[..., None] == 0, torch.full_like(positions, 3.7), positions)
    assert not torch.equal(rubbish, positions)
    for clean, dirty in zip(calc.network(positions, species), calc.network(rubbish, species), strict=True):
        assert torch.equal(clean, dirty)


def test_translation_changes_nothing(calc: Any, structures: list[Atoms]) -> None:
    here = bare(structures[10])
    there = here.copy()
    there.translate([1000.0, -2000.0, 3000.0])
    a, b = calc.calculate_batch([here, there], PROPERTIES)
    assert a["energy"] == pytest.approx(b["energy"], abs=ROUNDING)
    np.testing.assert_allclose(a["forces"], b["forces"], rtol=0, atol=ROUNDING)


def test_order_of_atoms_does_not_matter(calc: Any, structures: list[Atoms]) -> None:
    atoms = bare(structures[20])
    order = np.random.default_rng(0).permutation(len(atoms))
    a, b = calc.calculate_batch([atoms, atoms[order]], PROPERTIES)
    assert a["energy"] == pytest.approx(b["energy"], abs=ROUNDING)
    np.testing.assert_allclose(a["forces"][order], b["forces"], rtol=0, atol=ROUNDING)


def test_rotation_does_matter(ff: SimpleNamespace, calc: Any, structures: list[Atoms]) -> None:
    rotations = ff.labelled.haar_rotations(8, torch.Generator().manual_seed(0)).double().numpy()
    for atoms in structures[::15]:
        still = calc.calculate_batch([bare(atoms)], PROPERTIES)[0]["forces"]
        copies = calc.calculate_batch([rotated(atoms, rotation) for rotation in rotations], PROPERTIES)
        change = rms([found["forces"] @ g - still for found, g in zip(copies, rotations, strict=True)])
        assert change > 100 * ROUNDING
        # Yet it learned the forces: what rotation changes is small beside the forces themselves.
        assert change < 0.5 * rms(atoms.get_forces())


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("CH3Br", np.eye(5, 3)), r"CH3Br contains Br; expected only H C N O F S Cl"),
        (Atoms("SiPH", np.eye(3)), r"contains P, Si;"),
        (Atoms(), "no atoms"),
        (Atoms("CO", np.eye(2, 3), cell=[5, 5, 5], pbc=True), "periodic"),
    ],
)
def test_what_it_cannot_do_is_said(calc: Any, atoms: Atoms, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calc.calculate_batch([molecule("CH4"), atoms], PROPERTIES)


def test_unknown_property_and_precision(ff: SimpleNamespace, calc: Any) -> None:
    with pytest.raises(PropertyNotImplementedError, match="dipole"):
        calc.calculate_batch([molecule("CH4")], ["dipole"])
    with pytest.raises(ValueError, match="float33"):
        ff.transformer.calculator(dtype="float33")


# --- the weights and the figures the README states


def test_weights_are_small_plain_tensors() -> None:
    stored = torch.load(FOLDER / "weights.pt", weights_only=True)
    parameters = sum(value.numel() for value in stored["state"].values())
    assert {value.dtype for value in stored["state"].values()} == {torch.float16}
    assert 120_000 < parameters < 200_000
    assert (FOLDER / "weights.pt").stat().st_size < 500_000


def test_heldout_errors_are_the_documented_ones(ff: SimpleNamespace, calc: Any, heldout: Any) -> None:
    found = ff.evaluate.errors(calc.network, torch.as_tensor(calc.references[1:]), heldout)
    # A model that learned: a fifth of the error of predicting zero.
    assert found.force_rmse < 0.2 * found.force_rms
    # Three decimals are printed, and the last may fall either way on another machine.
    assert (found.force_rmse, found.force_mae, found.force_rms, found.energy_mae) == pytest.approx(
        documented(r"molecules.extxyz: force RMSE (\S+) .*MAE (\S+) .*zero: (\S+) .*energy MAE (\S+) "), abs=1.1e-3
    )


@pytest.mark.slow
def test_documented_share(ff: SimpleNamespace, calc: Any, heldout: Any) -> None:
    total, equiv = ff.evaluate.force_decomposition(calc.network, heldout, rotations=48, seed=7)
    # Other rotations than the documented ones, and half as many: they scatter by a few percent.
    assert (total, equiv) == pytest.approx(documented(r"L_total (\S+) .*L_equiv (\S+) "), rel=0.1)
    assert equiv / total > 0.05


def test_decomposition_of_an_equivariant_network_is_zero(ff: SimpleNamespace, heldout: Any) -> None:
    """The control: a spring to the centroid rotates with the molecule."""

    class Spring(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stiffness = torch.nn.Parameter(torch.tensor(0.3))

        def forward(self, positions: torch.Tensor, species: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return positions.sum((1, 2)), -self.stiffness * positions

    total, equiv = ff.evaluate.force_decomposition(Spring(), heldout, rotations=4, seed=0)
    assert equiv < 1e-10
    assert total > 1.0


# --- the data


def test_labels_are_gfn2(structures: list[Atoms]) -> None:
    tblite = pytest.importorskip("tblite.ase")
    for atoms in structures[5::20]:
        fresh = bare(atoms)
        fresh.calc = tblite.TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.1)
        # On the machine that made them: 0 eV and 5e-9 eV/Å. The rest is room for another linear algebra library.
        assert fresh.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        np.testing.assert_allclose(fresh.get_forces(), atoms.get_forces(), rtol=0, atol=1e-4)


def test_heldout_molecules_are_not_trained_on(make_data: ModuleType, structures: list[Atoms], tmp_path: Path) -> None:
    listed = make_data.read_molecules(FOLDER / "data" / "smiles.txt")
    names = {split: {m.name for m in listed if m.split == split} for split in ("train", "heldout")}
    assert {atoms.info["name"] for atoms in structures} == names["heldout"]
    # The reader guarantees the rest: one molecule cannot be on the list twice, whatever its spelling.
    leak = tmp_path / "smiles.txt"
    leak.write_text("train OCC ethanol\nheldout C(O)C spirit\n")
    with pytest.raises(ValueError, match="'spirit' is the same molecule as 'ethanol'"):
        make_data.read_molecules(leak)


def test_data_depend_on_the_seed_alone(make_data: ModuleType) -> None:
    glycine = make_data.Molecule("train", "NCC(=O)O", "glycine", 3)
    first, again, other = (make_data.labelled(glycine, 2, 2, seed) for seed in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        # tblite adds over threads in whatever order they finish: the last digit of a label may differ.
        np.testing.assert_allclose(a.get_forces(), b.get_forces(), rtol=0, atol=1e-9)
        assert rms(a.positions - c.positions) > 0.1


# --- training


def test_rotations_are_haar(ff: SimpleNamespace) -> None:
    rotations = ff.labelled.haar_rotations(20000, torch.Generator().manual_seed(1)).double()
    identity = torch.eye(3, dtype=torch.float64).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.mT, identity, rtol=0, atol=1e-5)
    assert torch.linalg.det(rotations).min() > 0.99
    # Six standard errors: Var R_ij = 1/3, Var R_ij² = 1/5 − 1/9.
    assert rotations.mean(0).abs().max() < 6 * (1 / 3 / 20000) ** 0.5
    assert (rotations.square().mean(0) - 1 / 3).abs().max() < 6 * ((1 / 5 - 1 / 9) / 20000) ** 0.5
    angles = torch.rad2deg(torch.arccos(((rotations.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)))
    assert angles.mean().item() == pytest.approx(126.5, abs=1.0)


def test_references_explain_the_composition(ff: SimpleNamespace, heldout: Any) -> None:
    counts = ff.labelled.compositions(heldout.species)
    exact = torch.tensor([-10.0, -50.0, -60.0, -70.0, -80.0, -90.0, -100.0], dtype=torch.float64)
    found = ff.labelled.fit_references(heldout._replace(energies=counts @ exact))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)


def test_every_epoch_visits_every_structure_once(ff: SimpleNamespace, heldout: Any) -> None:
    sizes = (heldout.species > 0).sum(1)
    first, second = (ff.train.epoch_batches(sizes, 8, 0, epoch) for epoch in (0, 1))
    assert torch.equal(torch.cat(first).sort().values, torch.arange(len(sizes)))
    assert not torch.equal(torch.cat(first), torch.cat(second))


def trained(ff: SimpleNamespace, data: Any, taken: int, **changes: Any) -> tuple[Any, list[float]]:
    settings = ff.train.Settings(steps=60, batch=10, lr=2e-2, width=32, layers=1)._replace(**changes)
    run = ff.train.Run(data, settings)
    return run, [run.step() for _ in range(taken)]


def identical(a: Any, b: Any) -> bool:
    state_a, state_b = a.network.state_dict(), b.network.state_dict()
    return all(torch.equal(state_a[name], state_b[name]) for name in state_a)


@pytest.mark.slow
def test_labels_rotate_with_the_molecule(ff: SimpleNamespace, heldout: Any) -> None:
    """Forces planted equal to the positions stay equal to them, and pair distances do not change."""
    planted = heldout._replace(forces=heldout.positions)
    turning, _ = trained(ff, planted, 0)
    straight, _ = trained(ff, planted, 0, augment=False)
    (rotated_batch, _), (straight_batch, _) = turning.batch(), straight.batch()
    torch.testing.assert_close(rotated_batch.forces, rotated_batch.positions, rtol=0, atol=0)
    assert rms((rotated_batch.positions - straight_batch.positions).numpy()) > 0.5
    distances = [torch.cdist(b.positions, b.positions) for b in (rotated_batch, straight_batch)]
    # cdist in float32, through its matrix product, on molecules of some 10 Å.
    torch.testing.assert_close(*distances, rtol=0, atol=5e-3)


def test_training_is_reproducible(ff: SimpleNamespace, heldout: Any) -> None:
    before = torch.get_rng_state()
    first, losses = trained(ff, heldout, 12)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)  # the global random state is not what decides
    second, losses_again = trained(ff, heldout, 12)
    assert identical(first, second)
    assert losses == losses_again
    for changes in ({"seed": 1}, {"augment": False}):
        assert not identical(first, trained(ff, heldout, 12, **changes)[0])


@pytest.mark.slow
def test_training_fits_a_few_molecules(ff: SimpleNamespace, heldout: Any) -> None:
    """Six molecules in one frame are learned by heart; rotated anew at every step, they are not."""
    few = ff.labelled.Labelled(*(tensor[3:9] for tensor in heldout))
    _, fixed = trained(ff, few, 120, steps=400, batch=6, augment=False)
    _, turning = trained(ff, few, 120, steps=400, batch=6, augment=True)
    assert np.mean(fixed[-10:]) < 0.1 * np.mean(fixed[:10])
    assert np.mean(fixed[:10]) > np.mean(turning[-10:]) > 5 * np.mean(fixed[-10:])


def test_resumed_run_gives_the_same_weights(ff: SimpleNamespace, heldout: Any, tmp_path: Path) -> None:
    whole, _ = trained(ff, heldout, 9)
    part, _ = trained(ff, heldout, 4)
    part.save_checkpoint(tmp_path / "run.pt")
    resumed, _ = trained(ff, heldout, 0)
    resumed.load_checkpoint(tmp_path / "run.pt")
    for _ in range(5):
        resumed.step()
    assert identical(whole, resumed)
    stranger, _ = trained(ff, heldout, 0, seed=5)
    with pytest.raises(ValueError, match="'seed': 0"):
        stranger.load_checkpoint(tmp_path / "run.pt")


def test_saved_weights_are_what_the_calculator_loads(ff: SimpleNamespace, heldout: Any, tmp_path: Path) -> None:
    run, _ = trained(ff, heldout, 2)
    run.save_weights(tmp_path / "weights.pt")
    loaded = ff.transformer.calculator(tmp_path / "weights.pt")
    for name, value in run.network.state_dict().items():
        torch.testing.assert_close(loaded.network.state_dict()[name], value.half().float(), rtol=0, atol=0)
    np.testing.assert_array_equal(loaded.references[1:], run.references.numpy())
