"""Grids that say where their voxels are say so rightly after a rotation: each value stays where it was in the world."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError

AFFINE = torch.tensor(
    [[0.0, 2.0, 0.1, -10], [-3.0, 0.2, 0.0, 5], [0.3, 0.0, 4.0, 7], [0, 0, 0, 1]], dtype=torch.float64
)


class Tagged(Tensor):
    """Stands in for MONAI's MetaTensor where that is not installed: attributes that a rotation does not know."""

    affine: Tensor
    meta: dict[str, Any]
    pending_operations: list[Any]


def tagged(values: Tensor, affine: Tensor = AFFINE) -> Any:
    found = values.as_subclass(Tagged)
    found.affine, found.meta, found.pending_operations = affine.clone(), {"file": "one.nii"}, []
    return found


def meta_tensor(values: Tensor, affine: Tensor = AFFINE) -> Any:
    monai = pytest.importorskip("monai.data")
    return monai.MetaTensor(values, affine=affine, meta={"file": "one.nii"})


def places(affine: Tensor, shape: torch.Size) -> Tensor:
    """Where all voxels are in the world, ``(D H W, 3)``."""
    indices = torch.tensor(list(itertools.product(*map(range, shape))), dtype=torch.float64)
    return indices @ affine[:3, :3].mT + affine[:3, 3]


def by_place(grid: Any) -> Tensor:
    """Values in the order of their places."""
    values = torch.as_tensor(grid).as_subclass(Tensor).flatten()
    where = places(torch.as_tensor(grid.affine), grid.shape[-3:])
    order = sorted(range(len(values)), key=lambda k: tuple(where[k].round(decimals=6).tolist()))
    return torch.cat([where[order], values[order, None]], 1)


@pytest.mark.parametrize("make", [tagged, meta_tensor])
@pytest.mark.parametrize(
    ("axes", "shape"),
    [("xyz", (4, 4, 4)), ("zyx", (4, 4, 4)), ("xyz", (3, 4, 5)), ("yzx", (3, 4, 4))],
)
def test_values_stay_where_they_are_in_the_world(make: Any, axes: str, shape: tuple[int, ...]) -> None:
    """Over many rotations by right angles; the negative control is the affine matrix of before."""
    image = make(torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    transform, stale = ep.RandomRotation(ep.Schema({"image": ep.grid(axes=axes)}, {})), 0
    for _ in range(30):
        rotated = transform({"image": image})["image"]
        assert type(rotated) is type(image)
        assert rotated.meta["file"] == "one.nii"
        torch.testing.assert_close(by_place(rotated), by_place(image), rtol=0, atol=1e-9)
        before = tagged(rotated.as_subclass(Tensor))
        stale += not torch.allclose(by_place(before), by_place(image), rtol=0, atol=1e-9)
    assert stale > 15
    assert torch.equal(torch.as_tensor(image.affine), AFFINE), "the sample keeps its own"


def test_interpolated_values_are_those_of_their_place() -> None:
    """A linear function of place is interpolated exactly: inside of the ball it is the same function of the world."""
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    shape = (1, 8, 8, 8)
    image = tagged((places(affine, torch.Size(shape[1:])) @ slope).reshape(shape), affine)
    transform = ep.RandomRotation(ep.Schema({"image": ep.grid(interpolation="linear")}, {}))
    for _ in range(5):
        rotated = transform({"image": image})["image"]
        found = rotated.as_subclass(Tensor).flatten()
        expected = places(rotated.affine, rotated.shape[-3:]) @ slope
        inside = ep.grid().coordinates(shape[1:]).norm(dim=-1).flatten() < 3
        torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=1e-9)
        stale = places(affine, rotated.shape[-3:]) @ slope
        assert float((found - stale)[inside].abs().max()) > 0.1


def test_monai_says_the_same() -> None:
    """The affine matrix of MONAI's own quarter rotation of the same array."""
    image = meta_tensor(torch.rand(1, 3, 4, 5, dtype=torch.float64))
    from monai.transforms import Rotate90

    from equiv_probe.augmentation.voxel_affine import with_affine

    g = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    moved = image.as_tensor().rot90(1, (1, 2))
    expected = Rotate90(k=1, spatial_axes=(0, 1))(image)
    torch.testing.assert_close(with_affine(moved, image, ep.grid(), g).affine, expected.affine, rtol=0, atol=1e-12)
    assert torch.equal(expected.as_tensor(), moved)


def test_what_cannot_be_kept_right_is_refused_or_dropped() -> None:
    transform = ep.RandomRotation(ep.Schema({"image": ep.grid(), "dipole": ep.vector}, {}))
    sample = {"image": tagged(torch.rand(1, 4, 4, 4)), "dipole": tagged(torch.rand(3))}
    assert type(transform(sample)["dipole"]) is Tensor, "no voxels"
    bare = torch.rand(1, 4, 4, 4).as_subclass(Tagged)
    assert type(transform({**sample, "image": bare})["image"]) is Tensor, "it says nothing about its voxels"
    sample["image"].pending_operations = [{"affine": AFFINE}]
    with pytest.raises(EquivProbeError, match="lazy=False"):
        transform(sample)
    with pytest.raises(EquivProbeError, match=r"affine matrix of shape \(3, 3\)"):
        transform({**sample, "image": tagged(torch.rand(1, 4, 4, 4), torch.eye(3))})
