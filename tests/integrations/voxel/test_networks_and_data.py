"""Kernels that respect the cube, poses that are labelled by what was moved, molecules oriented as asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import equiv_probe as ep

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

    from torch import Tensor

DOUBLE = torch.float64


def cube_error(network: torch.nn.Module, grid: Tensor) -> tuple[float, float]:
    """Largest difference, over the 24 rotations, between rotating before and after a network; and its scale."""
    size = grid.shape[-1]
    place = torch.cartesian_prod(*[torch.arange(size, dtype=DOUBLE) - (size - 1) / 2] * 3)
    with torch.no_grad():
        plain = network(grid)
        worst = 0.0
        for rotation in ep.RotationPlan("cube").rotations()[0]:
            x, y, z = (place @ rotation + (size - 1) / 2).round().long().unbind(-1)  # value at p comes from g⁻¹ p
            rotate = lambda values: values[:, :, x, y, z].reshape(values.shape) if values.ndim == 5 else values  # noqa: B023, E731
            worst = max(worst, float((network(rotate(grid)) - rotate(plain)).abs().max()))
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
        # Proper: a mirror image would rotate the sign of every signed volume.
        volume = lambda p: torch.linalg.det((p[1:4] - p[0]).double())  # noqa: E731
        torch.testing.assert_close(volume(molecule[name]), volume(molecule["given"]), rtol=1e-3, atol=1e-4)
