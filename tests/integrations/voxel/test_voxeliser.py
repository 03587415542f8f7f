"""The voxeliser against direct sums in float64, under rotation, and its slopes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import equiv_probe as ep

if TYPE_CHECKING:
    from types import SimpleNamespace

    from torch import Tensor

DOUBLE = torch.float64


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


@pytest.mark.slow
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
def test_rotated_atoms_are_a_rotated_grid(vx: SimpleNamespace, cutoff: float | None, size: int) -> None:
    """For the 24 rotations: the density of rotated atoms at `g p` is that of the atoms at p, found by coordinates."""
    given = atoms()
    voxels = vx.voxeliser.Voxeliser(3, size, 0.7, cutoff=cutoff)
    density, places = voxels(**given), voxels.coordinates()
    for rotation in ep.RotationPlan("cube").rotations()[0]:
        rotated = voxels(**{**given, "pos": given["pos"] @ rotation.T})
        index = ((places @ rotation.T) / 0.7 + (size - 1) / 2).round().long()
        x, y, z = index.unbind(-1)
        torch.testing.assert_close(rotated[:, :, x, y, z], density, rtol=1e-12, atol=1e-15)
    half_turned = voxels(**{**given, "pos": given["pos"] @ ep.RotationPlan("haar").rotations()[0, 0].T})
    assert float((half_turned - density).abs().max()) > 0.1  # the test would see a grid that did not rotate


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


@pytest.mark.parametrize("averaged", [True, False])
def test_slopes_are_vectors(vx: SimpleNamespace, averaged: bool) -> None:
    """Of a score that does not change under the cube's rotations the slopes rotate along; of any other they do not."""
    torch.manual_seed(0)
    given = atoms(count=4)
    cnn = vx.networks.ScalarCNN(3, (4, 4)).double()
    if averaged:
        vx.networks.respect_the_cube(cnn)
    voxels = vx.voxeliser.Voxeliser(3, 8, 0.8)

    def predict(pos: Tensor) -> dict[str, Tensor]:
        pos = pos.detach().requires_grad_()
        score = cnn(voxels(pos, given["channel"], given["radius"], given["mask"]))
        return {"pull": vx.voxeliser.atom_gradients(score, pos)}

    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"pull": ep.vector})
    orbit = ep.twirl(predict, given["pos"], schema, ep.RotationPlan("cube"), center="origin", floor=0)
    zero = torch.zeros_like(given["pos"])  # against nothing L_total is the slopes' mean square
    found = ep.decompose(orbit, zero, "mse", structures="leading")
    assert (abs(found.share) < 1e-14) == averaged  # L_total − L_mean in float64
    assert averaged or found.share > 0.01


@pytest.mark.gpu
@pytest.mark.parametrize("cutoff", [None, 4.0])
def test_density_on_the_gpu(vx: SimpleNamespace, cutoff: float | None) -> None:
    """As on the CPU, in float32 under bfloat16 autocast; atomic additions come in any order."""
    given = atoms(dtype=torch.float32)
    voxels = vx.voxeliser.Voxeliser(3, 10, 0.7, cutoff=cutoff)
    expected = voxels(**given)
    with torch.autocast("cuda", torch.bfloat16):
        found = voxels.cuda()(**{name: value.cuda() for name, value in given.items()})
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-6)


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
