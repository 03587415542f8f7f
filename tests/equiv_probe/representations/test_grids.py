"""Grids rotated exactly: against NumPy's index arithmetic, as a group, in every layout; and errors that teach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.representations.grids import Grid
from equiv_probe.representations.voxel_rotations import rotate_voxels
from equiv_probe.rotations.haar import haar
from equiv_probe.schema.grid_plans import fitting_plan, require_fit

CUBE = ep.RotationPlan("cube", improper=True).rotations()[0]
CUBES = [(4, 4, 4), (5, 5, 5)]
BOXES = [*CUBES, (2, 3, 4), (3, 5, 5), (1, 4, 2)]
AXES = ["xyz", "zyx", "yzx"]


def values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def quarter(axis: int) -> Tensor:
    """A rotation by 90° about x, y or z, written out."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    g = torch.zeros(3, 3, dtype=torch.float64)
    g[axis, axis] = g[b, a] = 1.0
    g[a, b] = -1.0
    return g


@pytest.mark.parametrize("shape", BOXES)
@pytest.mark.parametrize("axes", AXES)
def test_quarter_turns_and_reflections_are_those_of_numpy(axes: str, shape: tuple[int, ...]) -> None:
    field, rep = values(2, *shape), ep.grid(axes=axes)
    place = [axes.index(axis) + 1 for axis in "xyz"]
    for axis in range(3):
        ahead, behind = place[(axis + 1) % 3], place[(axis + 2) % 3]
        expected = np.rot90(field.numpy(), 1, (ahead, behind))  # from the first axis towards the second
        assert np.array_equal(rep.rotate(field, quarter(axis)).numpy(), expected)
        assert np.array_equal(rep.rotate_back(torch.from_numpy(expected.copy()), quarter(axis)).numpy(), field.numpy())
        mirror = torch.eye(3).double()
        mirror[axis, axis] = -1
        assert np.array_equal(rep.rotate(field, mirror).numpy(), np.flip(field.numpy(), place[axis]))


@pytest.mark.parametrize("shape", BOXES)
@pytest.mark.parametrize("axes", ["xyz", "zyx"])
def test_values_and_vectors_arrive_where_the_rotation_takes_them(axes: str, shape: tuple[int, ...]) -> None:
    """``F'(p) = g F(g⁻¹ p)``, voxel by voxel, for all 48."""
    rep = ep.grid(ep.scalar, ep.vector, (2, ep.pseudoscalar), axes=axes, spacing=0.7)
    field = values(6, *shape)
    old = rep.coordinates(shape).reshape(-1, 3)
    for g in CUBE:
        rotated = rep.rotate(field, g)
        new = rep.coordinates(rotated.shape[-3:]).reshape(-1, 3)
        distance = torch.cdist(new @ g, old)  # g⁻¹ p
        assert float(distance.amin(1).max()) < 1e-12, "every voxel came from a voxel"
        there = field.flatten(1)[:, distance.argmin(1)]
        parity = float(torch.linalg.det(g))
        expected = torch.cat([there[:1], g @ there[1:4], parity * there[4:]])
        assert torch.equal(rotated.flatten(1), expected)


@pytest.mark.slow
@pytest.mark.parametrize("shape", BOXES)
def test_rotations_compose_as_the_group_does(shape: tuple[int, ...]) -> None:
    rep, field = ep.grid((2, ep.scalar), ep.axial, ep.tensor(2)), values(3, 14, *shape)
    for g in CUBE[::5]:
        for h in CUBE[::3]:
            assert torch.equal(rep.rotate(rep.rotate(field, h), g), rep.rotate(field, g @ h))
        assert torch.equal(rep.rotate_back(rep.rotate(field, g), g), field)
    assert torch.equal(rep.rotate(field, CUBE[0]), field)


@pytest.mark.parametrize("shape", CUBES)
def test_every_structure_of_every_copy_has_its_own_rotation(shape: tuple[int, ...]) -> None:
    rep, field = ep.grid(ep.vector, ep.scalar), values(5, 4, *shape)
    g = CUBE[torch.randint(48, (6, 5), generator=torch.Generator().manual_seed(0))]
    rotated = rep.rotate(field.expand(6, *field.shape), g)
    for copy in range(6):
        for b in range(5):
            assert torch.equal(rotated[copy, b], rep.rotate(field[b], g[copy, b]))
    assert torch.equal(rep.rotate_back(rotated, g), field.expand_as(rotated))


SQUARE = {"box-x": (2, 4, 4), "box-y": (4, 2, 4), "box-z": (4, 4, 2)}


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("axes", ["xyz", "zyx"])
@pytest.mark.parametrize("design", SQUARE)
def test_boxes_with_a_square_face_have_eight_rotations(design: str, axes: str, improper: bool) -> None:
    """Brute force: of the 24 rotations of the cube (48 with improper ones) those that keep the shape of the array."""
    cartesian = SQUARE[design]
    shape = tuple(cartesian["xyz".index(axis)] for axis in axes)
    rep, x = ep.grid(axes=axes), values(3, 2, *shape)
    plan = fitting_plan(ep.RotationPlan(improper=improper), ep.Schema({"x": rep}, {}), {"x": x})
    assert plan.design == design
    assert plan.size == (16 if improper else 8)
    kept = []
    for g in ep.RotationPlan("cube", improper=improper).rotations()[0]:
        if rep.rotate(x, g).shape == x.shape:
            kept.append(g)
    found = plan.rotations()[0]
    assert {tuple(g.flatten().tolist()) for g in found} == {tuple(g.flatten().tolist()) for g in kept}
    orbit = rep.rotate(x[None].expand(len(found), *x.shape), found)
    assert len(torch.unique(orbit.flatten(1), dim=0)) == len(found)
    assert plan.degree == 1
    assert torch.equal(found.mean(0), torch.zeros(3, 3).double()), "vectors average to zero"


@pytest.mark.parametrize(
    ("spacing", "design"), [((1.0, 1.0, 2.0), "box-z"), ((2.0, 1.0, 1.0), "box-x"), ((1.0, 2.0, 3.0), "box")]
)
def test_unequal_spacing_of_a_cube_of_voxels_leaves_what_it_allows(spacing: tuple[float, ...], design: str) -> None:
    schema, x = ep.Schema({"x": ep.grid(spacing=spacing)}, {}), values(2, 1, 4, 4, 4)
    plan = fitting_plan(ep.RotationPlan(), schema, {"x": x})
    assert plan.design == design
    require_fit(plan, schema, {"x": x})
    if design != "box":
        with pytest.raises(ep.EquivProbeError, match="spacing"):
            require_fit(ep.RotationPlan("cube"), schema, {"x": x})
        other = {"box-x": "box-z", "box-z": "box-x"}[design]
        with pytest.raises(ep.EquivProbeError, match="spacing"):
            require_fit(ep.RotationPlan(other), schema, {"x": x})
    with pytest.raises(ep.EquivProbeError, match="shape"):
        require_fit(ep.RotationPlan("box-z"), ep.Schema({"x": ep.grid()}, {}), {"x": x[..., 1:, :]})


@pytest.mark.parametrize("shape", [(4, 4, 4), (2, 3, 4), (4, 4, 2), (2, 4, 4)])
def test_without_reading_the_rotations_the_result_is_the_same(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rep, field = ep.grid(), values(3, 2, *shape)
    plan = fitting_plan(ep.RotationPlan(improper=True), ep.Schema({"x": rep}, {}), {"x": field})
    g = plan.rotations()[0][:, None].expand(-1, 3, 3, 3)
    expected = rep.rotate(field[None], g)
    monkeypatch.setattr("equiv_probe.representations.voxel_rotations.at_hand", lambda value: False)
    assert torch.equal(rep.rotate(field[None], g), expected)


@pytest.mark.parametrize("shape", [(4, 4, 4), (2, 3, 4)])
def test_a_wrong_rotation_that_could_not_be_read_leaves_a_nan(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("equiv_probe.representations.voxel_rotations.at_hand", lambda value: False)
    good, wrong = torch.eye(3).double(), haar(1, torch.Generator().manual_seed(0))[0]
    rotated = rotate_voxels(values(3, 2, *shape), torch.stack([good, wrong, good]))
    assert rotated.isnan().flatten(1).any(1).tolist() == [False, True, False]
    if len(set(shape)) > 1:
        assert bool(rotate_voxels(values(1, 2, *shape), quarter(0)[None]).isnan().any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_moved_and_not_rounded(dtype: torch.dtype) -> None:
    rep, field = ep.grid((2, ep.scalar), ep.vector), values(5, 4, 4, 4, dtype=dtype)
    for g in CUBE[::7]:
        rotated = rep.rotate(field, g)
        assert rotated.dtype == dtype
        assert torch.equal(rotated.double(), rep.rotate(field.double(), g))


def test_gradients_are_the_inverse_permutation() -> None:
    rep, field = ep.grid(ep.vector), values(3, 2, 2, 1).requires_grad_()
    for g in (CUBE[3], CUBE[17], CUBE[40]):
        assert torch.autograd.gradcheck(lambda x, g=g: rep.rotate(x, g), field)
        assert torch.autograd.gradgradcheck(lambda x, g=g: rep.rotate(x, g).pow(2), field)


def test_coordinates_and_the_ball_follow_the_box() -> None:
    rep = ep.grid(axes="zyx", spacing=(0.5, 1.0, 2.0))
    place = rep.coordinates((2, 3, 4))
    assert place.shape == (2, 3, 4, 3)
    assert torch.equal(place[:, 0, 0, 2], torch.tensor([-1.0, 1.0]).double())
    assert torch.equal(place[0, :, 0, 1], torch.tensor([-1.0, 0.0, 1.0]).double())
    assert torch.equal(place[0, 0, :, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]).double())
    assert rep.half_lengths((2, 3, 4)) == [2.0, 1.5, 1.0]
    corner = ep.grid(spacing=2.0, centred="corner", ball=True)
    assert corner.half_lengths((5, 5, 5)) == [4.0, 4.0, 4.0]
    counted = corner.counted(torch.zeros(1, 5, 5, 5))
    assert counted is not None
    assert int(counted.sum()) == 33  # |i|² ≤ 4 for whole i, j, k
    assert int(ep.grid(ball=True).counted(torch.zeros(1, 5, 5, 5)).sum()) == 57 + 24  # ≤ 2.5² = 6.25


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ep.grid().rotate(values(1, 4, 4, 4), haar(1)[0]), r"RotationPlan\(\"cube\"\), or declare ep.grid"),
        (lambda: ep.grid().rotate(values(2, 1, 2, 3, 4), CUBE[:2]), r"RotationPlan\(\"box\"\)"),
        (lambda: ep.grid(spacing=(1, 1, 2)).rotate(values(1, 4, 4, 4), quarter(0)), "spacing differs"),
        (lambda: ep.grid((5, ep.scalar), (2, ep.vector)).rotate(values(8, 2, 2, 2), CUBE[0]), r"= 11 channels"),
        (lambda: ep.grid().rotate(values(4, 4, 4), CUBE[0]), r"values.unsqueeze\(-4\)"),
        (lambda: ep.grid(interpolation="cubic").rotate(torch.zeros(1, 2, 2, 2).long(), CUBE[0]), r"values.float\(\)"),
        (lambda: ep.grid(ep.vector).rotate(torch.zeros(3, 2, 2, 2).bool(), CUBE[0]), "only as scalars"),
        (lambda: ep.grid().rotate(values(1, 4, 4, 4), CUBE[:2]), r"add them: values\[None\]"),
        (lambda: ep.grid(ep.point), "rotates about no centre"),
        (lambda: ep.grid((0, ep.vector)), "the field"),
        (lambda: ep.grid(axes="xyx"), "x, y and z in some order"),
        (lambda: ep.grid(spacing=0), "one positive length, or three"),
        (lambda: ep.grid(interpolation="nearest"), '"linear" or "cubic"'),
        (lambda: ep.grid(centred="cell"), '"voxel" or "corner"'),
        (lambda: ep.RotationPlan("cube", subset=25), r"subset=25 of 'cube'"),
        (lambda: ep.RotationPlan("haar", subset=2), r"subset=2 of 'haar'"),
        (lambda: ep.RotationPlan("box", replicates=2), r'RotationPlan\("klein", replicates=…\)'),
    ],
)
def test_errors_teach(call: Any, message: str) -> None:
    with pytest.raises(ep.EquivProbeError, match=message):
        call()


def test_equal_axes_may_change_places_on_a_box_with_unequal_ones() -> None:
    rep, field = ep.grid(), values(2, 1, 3, 3, 5)
    about_z = torch.stack([quarter(2), quarter(2).mT])
    assert torch.equal(rep.rotate(field, about_z)[0], rep.rotate(field[0], quarter(2)))


def test_a_declaration_prints_as_it_is_written() -> None:
    for rep in (
        ep.grid(),
        ep.grid(ep.vector),
        ep.grid((5, ep.scalar), (2, ep.vector), axes="zyx", spacing=(0.5, 0.5, 1.0), centred="corner"),
        ep.grid(interpolation="cubic", ball=False),
        ep.grid(ep.irreps("1x0e+1x2e"), interpolation="linear"),
    ):
        assert isinstance(rep, Grid)
        assert eval(f"ep.{rep}", {"ep": ep}) == rep


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_the_device_as_on_the_host(dtype: torch.dtype) -> None:
    rep, field = ep.grid((2, ep.scalar), ep.vector), values(48, 5, 6, 6, 6, dtype=dtype)
    expected = rep.rotate(field, CUBE)
    for g in (CUBE, CUBE.cuda()):
        assert torch.equal(rep.rotate(field.cuda(), g).cpu(), expected)
    on_device, g = field.cuda(), CUBE.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rep.rotate(on_device, g)
    finally:
        torch.cuda.set_sync_debug_mode("default")
