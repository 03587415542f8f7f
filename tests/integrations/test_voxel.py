"""The voxel studies: the voxeliser against direct sums, networks that respect the cube, and what their logs say."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

FOLDER = Path(__file__).parents[2] / "integrations" / "voxel"
NAMES = ("voxeliser", "networks", "molecules", "poses", "training", "figures", "pockets")
DOUBLE = torch.float64


@pytest.fixture(scope="module")
def vx() -> Iterator[SimpleNamespace]:
    """The study's modules; they find each other by the folder, and are gone from `sys.modules` afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        for name in NAMES:
            patch.delitem(sys.modules, name, raising=False)
        yield SimpleNamespace(**{name: __import__(name) for name in NAMES})
        for name in NAMES:
            sys.modules.pop(name, None)


def atoms(seed: int = 0, count: int = 7, dtype: torch.dtype = DOUBLE) -> dict[str, Tensor]:
    """Two structures of typed atoms in a box of a few Å, the last atoms of the second masked."""
    generator = torch.Generator().manual_seed(seed)
    pos = 1.5 * torch.randn(2, count, 3, generator=generator, dtype=DOUBLE)
    radius = 0.6 + 0.6 * torch.rand(2, count, generator=generator, dtype=DOUBLE)
    channel = torch.randint(3, (2, count), generator=generator)
    mask = torch.ones(2, count, dtype=torch.bool)
    mask[1, -2:] = False
    return {"pos": pos.to(dtype), "channel": channel, "radius": radius.to(dtype), "mask": mask}


def direct(given: dict[str, Tensor], grid: Tensor, width: float, cutoff: float | None, center: Tensor) -> Tensor:
    """The definition: a sum over atoms and voxels, one by one."""
    density = torch.zeros(2, 3, *grid.shape[:3], dtype=DOUBLE)
    for b in range(2):
        for n in range(given["pos"].shape[1]):
            if given["mask"][b, n]:
                away = grid - (given["pos"][b, n].double() - center[b])
                spread = width * float(given["radius"][b, n])
                value = torch.exp(-away.square().sum(-1) / (2 * spread**2))
                if cutoff is not None:
                    value = value * (away.abs() <= cutoff * spread).all(-1)
                density[b, given["channel"][b, n]] += value
    return density


def grid_of(size: int, resolution: float) -> Tensor:
    """Middles of the voxels, written out."""
    axis = torch.tensor([(k + 0.5) * resolution - size * resolution / 2 for k in range(size)], dtype=DOUBLE)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)


@pytest.mark.parametrize("cutoff", [None, 2.5])
@pytest.mark.parametrize("size", [9, 10])
@pytest.mark.parametrize("centre", ["origin", "centroid", "given"])
def test_density_is_the_direct_sum(vx: SimpleNamespace, cutoff: float | None, size: int, centre: str) -> None:
    """Masked atoms, atoms outside of the box, and each way of centring included."""
    given = atoms()
    given["pos"][0, 0] = torch.tensor([40.0, 0.0, 0.0])
    voxels = vx.voxeliser.Voxeliser(3, size, 0.7, cutoff=cutoff, centred=centre == "centroid")
    asked = torch.tensor([[0.3, -0.2, 0.5], [1.0, 0.0, -1.0]], dtype=DOUBLE) if centre == "given" else None
    held = given["mask"][..., None].double()
    center = {
        "origin": torch.zeros(2, 3, dtype=DOUBLE),
        "centroid": (given["pos"] * held).sum(1) / held.sum(1),
        "given": asked,
    }[centre]
    found = voxels(**given, center=asked)
    expected = direct(given, grid_of(size, 0.7), vx.voxeliser.VOXMOL, cutoff, center)
    torch.testing.assert_close(voxels.coordinates(), grid_of(size, 0.7))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)  # float64 rounding of sums of seven terms
    assert float(expected.abs().max()) > 0.1  # something is in the box


def test_weights_are_channels(vx: SimpleNamespace) -> None:
    """One-hot weights give what channels give, and halved weights half of it."""
    given = atoms()
    voxels = vx.voxeliser.Voxeliser(3, 8, 0.7)
    weights = torch.nn.functional.one_hot(given["channel"], 3).double()
    torch.testing.assert_close(voxels(**given), 2 * voxels(**{**given, "channel": weights / 2}), rtol=1e-13, atol=0)
    with pytest.raises(ValueError, match="without a cutoff"):
        vx.voxeliser.Voxeliser(3, 8, 0.7, cutoff=3.0)(**{**given, "channel": weights})


@pytest.mark.parametrize("cutoff", [None, 2.5])
def test_density_is_differentiable(vx: SimpleNamespace, cutoff: float | None) -> None:
    """First and second derivatives in positions and radii, against finite differences."""
    given = atoms(count=3)
    voxels = vx.voxeliser.Voxeliser(3, 5, 0.9, cutoff=cutoff)
    pos, radius = given["pos"].requires_grad_(), given["radius"].requires_grad_()

    def density(pos: Tensor, radius: Tensor) -> Tensor:
        return voxels(pos, given["channel"], radius, given["mask"])

    assert torch.autograd.gradcheck(density, (pos, radius))
    assert torch.autograd.gradgradcheck(density, (pos, radius))


@pytest.mark.parametrize("cutoff", [None, 2.5])
@pytest.mark.parametrize("size", [9, 10])
def test_turned_atoms_are_a_turned_grid(vx: SimpleNamespace, cutoff: float | None, size: int) -> None:
    """For the 24 rotations: the density of turned atoms at `g p` is that of the atoms at p, found by coordinates."""
    given = atoms()
    voxels = vx.voxeliser.Voxeliser(3, size, 0.7, cutoff=cutoff)
    density, places = voxels(**given), voxels.coordinates()
    for rotation in ep.RotationPlan("cube").rotations()[0]:
        turned = voxels(**{**given, "pos": given["pos"] @ rotation.T})
        index = ((places @ rotation.T) / 0.7 + (size - 1) / 2).round().long()
        x, y, z = index.unbind(-1)
        torch.testing.assert_close(turned[:, :, x, y, z], density, rtol=1e-12, atol=1e-15)
    half_turned = voxels(**{**given, "pos": given["pos"] @ ep.RotationPlan("haar").rotations()[0, 0].T})
    assert float((half_turned - density).abs().max()) > 0.1  # the test would see a grid that did not turn


def test_precision_of_the_density(vx: SimpleNamespace) -> None:
    """float32 keeps 1e-6 of the peak; positions rounded to bfloat16 are off by 2^-9 of 4 Å, and slopes are 1 / s."""
    exact = vx.voxeliser.Voxeliser(3, 10, 0.7)(**atoms())
    single = vx.voxeliser.Voxeliser(3, 10, 0.7)(**atoms(dtype=torch.float32))
    assert single.dtype == torch.float32
    assert float((single - exact).abs().max()) < 2e-6
    coarse = vx.voxeliser.Voxeliser(3, 10, 0.7)(**atoms(dtype=torch.bfloat16))
    assert coarse.dtype == torch.float32
    assert 1e-4 < float((coarse - exact).abs().max()) < 3 * 4 * 2**-9 / (0.6 * vx.voxeliser.VOXMOL)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vx.voxeliser.Voxeliser(3, 10, 0.7)(**atoms(dtype=torch.float32)), single)


def test_atom_gradients_are_slopes(vx: SimpleNamespace) -> None:
    """Against central differences of a CNN's score in float64; masked atoms have none."""
    torch.manual_seed(0)
    given = atoms(count=4)
    voxels, cnn = vx.voxeliser.Voxeliser(3, 8, 0.8, cutoff=4.0), vx.networks.ScalarCNN(3, (4, 4), flatten=2).double()
    score = lambda pos: cnn(voxels(pos, given["channel"], given["radius"], given["mask"]))  # noqa: E731
    pos = given["pos"].clone().requires_grad_()
    found = vx.voxeliser.atom_gradients(score(pos), pos)
    step = 1e-5
    for b, n, k in ((0, 0, 0), (0, 3, 2), (1, 1, 1)):
        there = torch.zeros_like(given["pos"])
        there[b, n, k] = step
        with torch.no_grad():
            slope = (score(given["pos"] + there)[b] - score(given["pos"] - there)[b]) / (2 * step)
        torch.testing.assert_close(found[b, n, k], slope, rtol=1e-6, atol=1e-9)  # differences of order step²
    assert bool((found[1, -2:] == 0).all())
    assert float(found.abs().max()) > 1e-4


def cube_error(network: torch.nn.Module, grid: Tensor) -> tuple[float, float]:
    """Largest difference, over the 24 rotations, between turning before and after a network of grids; and its scale."""
    size = grid.shape[-1]
    place = torch.cartesian_prod(*[torch.arange(size, dtype=DOUBLE) - (size - 1) / 2] * 3)
    with torch.no_grad():
        plain = network(grid)
        worst = 0.0
        for rotation in ep.RotationPlan("cube").rotations()[0]:
            x, y, z = (place @ rotation + (size - 1) / 2).round().long().unbind(-1)  # value at p comes from g⁻¹ p
            turn = lambda values: values[:, :, x, y, z].reshape(values.shape) if values.ndim == 5 else values  # noqa: B023, E731
            worst = max(worst, float((network(turn(grid)) - turn(plain)).abs().max()))
    return worst, float(plain.std())


@pytest.mark.parametrize("which", ["UNet", "ScalarCNN"])
def test_averaged_kernels_respect_the_cube(vx: SimpleNamespace, which: str) -> None:
    """To float64 rounding; the same network with its own kernels does not, by far."""
    torch.manual_seed(0)
    network = getattr(vx.networks, which)(3, (8, 8, 8)).double()
    grid = torch.randn(2, 3, 8, 8, 8, dtype=DOUBLE)
    error, scale = cube_error(network, grid)
    assert error > 0.01 * scale
    error, scale = cube_error(vx.networks.respect_the_cube(network), grid)
    assert error < 1e-11 * scale
    assert scale > 1e-4


def test_averaged_kernels_can_be_trained(vx: SimpleNamespace) -> None:
    """An optimiser moves the kernels and they stay averaged."""
    torch.manual_seed(0)
    network = vx.networks.respect_the_cube(vx.networks.UNet(2, (4, 4))).double()
    before = network.down[0][0].weight.detach().clone()
    grid = torch.randn(2, 2, 4, 4, 4, dtype=DOUBLE)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    (network(grid) - grid).square().mean().backward()
    optimizer.step()
    assert float((network.down[0][0].weight.detach() - before).abs().max()) > 1e-3
    error, scale = cube_error(network, grid)
    assert error < 1e-11 * scale


def test_poses_are_labelled_by_what_was_moved(vx: SimpleNamespace) -> None:
    """Only ligands move, by at most the shift and rigidly, and the label is their root mean square displacement."""
    generator = torch.Generator().manual_seed(0)
    pos = 5 * torch.randn(2, 12, 3, generator=generator)
    ligand = torch.zeros(2, 12, dtype=torch.bool)
    ligand[:, :5] = True
    mask = torch.ones(2, 12, dtype=torch.bool)
    pockets = vx.poses.Pockets(pos, torch.zeros(2, 12, dtype=torch.long), torch.ones(2, 12), mask, ligand)
    which = torch.tensor([0, 1, 1, 0] * 50)
    poses = vx.poses.draw(pockets, which, generator, shift=3.0)
    crystal = pos[which]
    assert torch.equal(poses.pos[:, 5:], crystal[:, 5:])
    moved = (poses.pos - crystal)[:, :5].double()
    torch.testing.assert_close(poses.rmsd.double(), moved.square().sum(-1).mean(-1).sqrt(), rtol=1e-5, atol=1e-5)
    shift = moved.mean(1).norm(dim=-1)
    assert 2.5 < float(shift.max()) <= 3.0 + 1e-5
    assert float(shift.min()) < 0.5
    before, after = (torch.cdist(p[:, :5].double(), p[:, :5].double()) for p in (crystal, poses.pos))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)  # rigid: float32 positions of about 10 Å


def test_pockets_hold_their_ligand_once(vx: SimpleNamespace, shared_data: Path) -> None:
    """No receptor atom lies on a ligand's; in 6w70, and only there, a whole ligand was left out."""
    pockets = vx.poses.load(shared_data / "protein_ligand")
    for k, stored in enumerate((1400, 1286, 1464, 1077)):
        pos, held, ligand = pockets.pos[k], pockets.mask[k], pockets.ligand[k]
        assert float(torch.cdist(pos[held & ~ligand], pos[ligand]).min()) > 1.0
        assert stored - int(held.sum()) == (34 if k == 3 else 0)


def test_molecules_are_oriented_as_asked(vx: SimpleNamespace, shared_data: Path) -> None:
    """Principal: x is the longest axis of each; random: none is, and distances are the same in all orientations."""
    path = shared_data / "ccd_ligands" / "ccd_ideal_8000.npz"
    found = {name: vx.molecules.load(path, 4.0, name) for name in ("principal", "random", "given")}
    spread = {name: (m.pos.square().sum(1) / m.mask.sum(1, keepdim=True)).mean(0) for name, m in found.items()}
    x, y, z = spread["principal"].tolist()
    assert x > 2 * y > 4 * z
    assert float(spread["random"].max() / spread["random"].min()) < 1.15
    assert float(spread["given"][0]) > 1.5 * float(spread["given"][1])  # the dictionary prefers directions itself
    molecule = {name: m.pos[0][m.mask[0]] for name, m in found.items()}
    between = torch.cdist(molecule["given"], molecule["given"])
    for name in ("principal", "random"):
        torch.testing.assert_close(torch.cdist(molecule[name], molecule[name]), between, rtol=0, atol=1e-4)
        # Proper: a mirror image would turn the sign of every signed volume.
        volume = lambda p: torch.linalg.det((p[1:4] - p[0]).double())  # noqa: E731
        torch.testing.assert_close(volume(molecule[name]), volume(molecule["given"]), rtol=1e-3, atol=1e-4)


def tiny(vx: SimpleNamespace, folder: Path) -> Any:
    """Pose scoring in a few steps."""
    return vx.pockets.Docking(
        steps=4, batch=2, every=1, log=2, evaluate=4, folder=str(folder), size=8, resolution=2.0, widths=(4, 4), held=4
    )


def test_pose_run_resumes_and_measures(vx: SimpleNamespace, shared_data: Path, tmp_path: Path) -> None:
    """A run that was stopped ends with the weights and the log of one that was not; its shares are direct averages."""
    task, run = vx.pockets.train(tiny(vx, tmp_path / "whole"), "cube")
    vx.pockets.train(tiny(vx, tmp_path / "parts"), "cube", until=2)
    again, resumed = vx.pockets.train(tiny(vx, tmp_path / "parts"), "cube")
    assert run.step == resumed.step == 4
    for a, b in zip(task.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    keys = [key for key in run.rows[-1] if key != "seconds"]
    assert [[row.get(k) for k in keys] for row in run.rows] == [[row.get(k) for k in keys] for row in resumed.rows]
    assert {"train/share", "held/share"} <= set(keys)

    poses, network = task.held["seen"], copy.deepcopy(task.network).double()
    scores = []
    with torch.no_grad():
        for rotation in ep.RotationPlan("cube").rotations()[0]:
            turned = {**poses.inputs, "pos": poses.pos.double() @ rotation.T}
            scores.append(network(**{**turned, "radius": poses.radius.double()}))
    orbit = torch.stack(scores).double()
    total = (orbit - poses.rmsd).square().mean()
    equiv = (orbit - orbit.mean(0)).square().mean()
    found = task.held_out(poses, ep.RotationPlan("cube"))  # the same poses in float32
    assert found.total.value == pytest.approx(float(total), rel=1e-5)
    assert found.equiv.value == pytest.approx(float(equiv), rel=1e-3)
    assert found.share.value == pytest.approx(float(equiv / total), rel=1e-3)
    with pytest.raises(SystemExit, match="another configuration"):
        vx.pockets.train(replace(tiny(vx, tmp_path / "whole"), batch=3), "cube")
