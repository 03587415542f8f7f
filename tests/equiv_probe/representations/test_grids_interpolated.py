"""Grids rotated by any rotation: order of convergence, exactness at the voxels, the ball, the interpolation floor."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.representations.interpolation import interpolate
from equiv_probe.rotations.haar import haar

CUBE = ep.RotationPlan("cube", improper=True).rotations()[0]
KINDS = ["linear", "cubic"]


def values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def blob(places: Tensor) -> Tensor:
    """A smooth density that is no ball: two Gaussians, 0.8 wide."""
    ends = torch.tensor([[0.5, -0.3, 0.4], [-0.9, 0.6, 0.1]], dtype=places.dtype)
    return torch.exp(-(places[..., None, :] - ends).square().sum(-1) / 1.28).sum(-1)


@pytest.mark.parametrize("axes", ["xyz", "zyx"])
@pytest.mark.parametrize(("kind", "order"), [("linear", 2.0), ("cubic", 3.0)])
def test_error_falls_with_the_order_of_the_interpolation(kind: str, order: float, axes: str) -> None:
    g = haar(2, torch.Generator().manual_seed(1))
    errors = []
    for n in (12, 24, 48):
        rep = ep.grid(spacing=8 / n, interpolation=kind, axes=axes)
        places = rep.coordinates((n, n, n))
        rotated = rep.rotate(blob(places)[None, None].expand(2, -1, -1, -1, -1), g)
        expected = torch.stack([blob(places @ one) for one in g])[:, None]  # f(g⁻¹ p)
        inside = places.norm(dim=-1) < 3.5
        errors.append(float((rotated - expected)[:, :, inside].square().mean().sqrt()))
    # Halving the voxel divides the error by 2^order, of which a tenth is left for the coarsest grid.
    assert errors[0] / errors[1] > 0.9 * 2**order
    assert errors[1] / errors[2] > 0.9 * 2**order
    assert errors[2] < {"linear": 5e-3, "cubic": 3e-4}[kind]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("centred", ["voxel", "corner"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [5, 6])
def test_rotations_of_the_cube_stay_exact(n: int, kind: str, centred: str, dtype: torch.dtype) -> None:
    field = values(4, n, n, n, dtype=dtype)
    fields = (ep.scalar, ep.vector)
    rep = ep.grid(*fields, spacing=0.3, centred=centred, interpolation=kind, ball=False)
    for g in CUBE:
        assert torch.equal(rep.rotate(field, g), ep.grid(*fields).rotate(field, g))


@pytest.mark.parametrize("kind", KINDS)
def test_half_turns_are_exact_on_any_box(kind: str) -> None:
    field = values(1, 4, 5, 7)
    rep = ep.grid(spacing=(0.5, 0.7, 0.3), interpolation=kind, ball=False)
    for g in ep.RotationPlan("box", improper=True).rotations()[0]:
        assert torch.equal(rep.rotate(field, g), ep.grid().rotate(field, g))


@pytest.mark.parametrize("kind", KINDS)
def test_each_copy_is_rotated_by_its_own_rotation_and_vectors_with_it(kind: str) -> None:
    rep, g = ep.grid(ep.vector, interpolation=kind), haar(6, torch.Generator().manual_seed(0)).reshape(3, 2, 3, 3)
    field = values(2, 3, 6, 6, 6)
    rotated = rep.rotate(field[None], g)
    alone = ep.grid(interpolation=kind)
    for k in range(3):
        for b in range(2):
            assert torch.allclose(rotated[k, b], rep.rotate(field[b], g[k, b]), atol=1e-14)
            moved = alone.rotate(field[b], g[k, b])
            assert torch.allclose(rotated[k, b], torch.einsum("ij,jxyz->ixyz", g[k, b], moved), atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_low_precision_is_interpolated_in_float32(kind: str) -> None:
    rep, field, g = (
        ep.grid(interpolation=kind),
        values(2, 6, 6, 6, dtype=torch.bfloat16),
        haar(1, torch.Generator().manual_seed(3))[0],
    )
    rotated = rep.rotate(field, g)
    assert rotated.dtype == torch.bfloat16
    # The result is rounded once, to eight significant bits: 2⁻⁸ relatively at most, and what float32 may add.
    exact = rep.rotate(field.double(), g)
    assert bool(((rotated.double() - exact).abs() <= 2**-8 * 1.001 * exact.abs() + 1e-5).all())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_to_second_order(kind: str) -> None:
    rep, field = ep.grid(ep.vector, interpolation=kind), values(3, 2, 3, 3).requires_grad_()
    g = torch.stack([haar(1, torch.Generator().manual_seed(2))[0], CUBE[5]])
    assert torch.autograd.gradcheck(lambda x: rep.rotate(x[None], g), field)
    at = 2 * torch.rand(2, 2, 2, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at[0, 0, 0] = 1.0  # at a voxel
    small = values(2, 1, 3, 3, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: interpolate(x, at, kind).square(), small)


def test_nothing_outside_of_the_ball_is_seen_or_counted() -> None:
    rep = ep.grid(interpolation="linear")
    field = values(1, 10, 10, 10)
    distance = rep.coordinates((10, 10, 10)).norm(dim=-1)
    outside, far = distance > 5, distance > 5 + math.sqrt(3)  # at the ball's edge the nearest voxels are asked
    rotated = rep.rotate(field[None], haar(4, torch.Generator().manual_seed(0)))
    assert bool((rotated[:, 0, outside] == 0).all())
    assert bool((rotated[:, 0, ~outside] != 0).any())
    schema = ep.Schema({"x": rep}, {"y": rep})
    noise, y = values(1, 10, 10, 10, seed=1), values(1, 10, 10, 10, seed=2)

    def predict(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": inputs["x"] * inputs["x"].roll(1, -1) + noise}

    found = []
    for scale in (1.0, 100.0):  # what is outside may be anything
        x = torch.where(far, scale * field, field)
        orbit = ep.twirl(predict, {"x": x}, schema, ep.RotationPlan("haar", 4))
        found.append(ep.decompose(orbit, torch.where(outside, scale * y, y)))
        by_callable = ep.decompose(orbit, y, lambda p, t: (p - t).square().sum() / (~outside).sum())
        assert math.isclose(by_callable.total, found[0].total, rel_tol=1e-12)
        assert math.isclose(by_callable.equiv, found[0].equiv, rel_tol=1e-9)
    for key in ("total", "mean", "equiv", "floor"):
        assert math.isclose(getattr(found[0], key), getattr(found[1], key), rel_tol=1e-12)
    # The mean is over the voxels inside, as written out.
    inside = (orbit.kept("y") - y).square()[..., ~outside].mean()
    assert math.isclose(found[0].total, float(inside), rel_tol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_equivariant_model_is_at_the_interpolation_floor_and_another_is_not(kind: str) -> None:
    """Isotropic blurring commutes with every rotation, up to the voxels; blurring along x alone does not."""
    n, h = 20, 0.4
    rep = ep.grid(spacing=h, interpolation=kind)
    schema = ep.Schema({"x": rep}, {"y": rep})
    x = blob(rep.coordinates((n, n, n)))[None]
    line = torch.exp(-(torch.arange(-4, 5).double() * h / 0.6).square() / 2)
    line = line / line.sum()

    def blurred(field: Tensor, axes: tuple[int, ...]) -> Tensor:
        for axis in axes:
            shape = [1, 1, 1, 1, 1]
            shape[2 + axis] = 9
            padding = [4 if a == axis else 0 for a in range(3)]
            field = torch.nn.functional.conv3d(field[None], line.reshape(shape), padding=padding)[0]
        return field

    found = {}
    for name, axes in (("every way", (0, 1, 2)), ("along x", (0,))):
        orbit = ep.twirl(lambda inputs, a=axes: {"y": blurred(inputs["x"], a)}, {"x": x}, schema, floor=8)
        found[name] = ep.decompose(orbit)
    assert 0 < found["every way"].equiv < found["every way"].floor < 10 * found["every way"].equiv
    assert found["along x"].equiv > 20 * found["along x"].floor


def test_norm_wise_losses_take_the_norm_over_the_channels_of_a_voxel() -> None:
    rep = ep.grid(ep.vector)
    schema = ep.Schema({"x": rep}, {"y": rep})
    x, y, shift = values(2, 3, 4, 4, 4), values(2, 3, 4, 4, 4, seed=1), values(3, 4, 4, 4, seed=2)
    orbit = ep.twirl(lambda inputs: {"y": inputs["x"] + shift}, {"x": x}, schema)
    found = ep.decompose(orbit, y, "mae-norm", structures="leading")
    assert math.isclose(found.total, float((orbit.kept("y") - y).norm(dim=3).mean()), rel_tol=1e-12)
    assert not found.notes
    bare = ep.Schema({"x": ep.grid(channel_axis=False)}, {"y": ep.grid(channel_axis=False)})
    with pytest.raises(ep.EquivProbeError, match="one channel for each class"):
        ep.decompose(ep.twirl(lambda inputs: {"y": inputs["x"]}, {"x": x[:, 0]}, bare), y[:, 0], "cross-entropy")


def test_a_component_wise_loss_of_vectors_depends_on_the_frame_unless_only_the_cube_rotates_it() -> None:
    x = values(3, 4, 4, 4)
    for rep, noted in ((ep.grid(ep.vector), False), (ep.grid(ep.vector, interpolation="linear"), True)):
        schema = ep.Schema({"x": rep}, {"y": rep})
        orbit = ep.twirl(lambda inputs: {"y": inputs["x"].roll(1, -1)}, {"x": x}, schema)
        found = ep.decompose(orbit, 2 * x, "mae")
        assert any("depends on the frame" in note for note in found.notes) == noted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_the_device_as_on_the_host(dtype: torch.dtype, kind: str) -> None:
    rep, field = ep.grid((2, ep.scalar), ep.vector, interpolation=kind), values(5, 6, 6, 6, dtype=dtype)
    g = haar(4, torch.Generator().manual_seed(0))
    expected, on_device = rep.rotate(field[None], g), field.cuda()
    rep.rotate(on_device[None], g.cuda())  # the ball is kept where it is used
    g = g.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rotated = rep.rotate(on_device[None], g)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    rounding = 1e-5 if dtype == torch.float32 else 2**-7
    assert torch.allclose(rotated.cpu().float(), expected.float(), atol=rounding, rtol=rounding)
