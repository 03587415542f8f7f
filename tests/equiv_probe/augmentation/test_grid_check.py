"""Augmentations of voxel grids: right ones pass, and each fault is found and said, also where voxels are mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

Names = dict[str, Any]


def sample(*shape: int, channels: int = 1) -> Names:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((channels, *shape), generator=generator)
    return {"image": image, "label": (image > 0.5).long(), "id": 7}


def smooth(n: int = 12) -> Names:
    places, generator = ep.grid().coordinates((n, n, n)), torch.Generator().manual_seed(1)
    ends = 2.5 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    image = torch.exp(-(places[None] - ends[:, None, None, None]).square().sum(-1) / 4).sum(0)[None]
    return {"image": image, "label": (image > 0.4).to(image)}


def by_right_angles(*planes: tuple[int, int], skip: float = 0.25) -> Callable[[Names], Names]:
    """As MONAI's RandRotate90d does it, one plane after the other."""

    def transform(one: Names) -> Names:
        found = dict(one)
        for a, b in planes:
            times = 0 if torch.rand(()) < skip else int(torch.randint(1, 4, ()))
            for name in ("image", "label"):
                found[name] = torch.rot90(found[name], times, (a + 1, b + 1))
        return found

    return transform


def flips(one: Names) -> Names:
    axes = [a + 1 for a in range(3) if torch.rand(()) < 0.5]
    return {**one, **{name: one[name].flip(axes) for name in ("image", "label")}}


def interpolated(draw: Callable[[], Tensor], *, label: bool = True) -> Callable[[Names], Names]:
    def transform(one: Names) -> Names:
        g = draw()
        rotated = {"image": ep.grid(interpolation="linear").rotate(one["image"], g)}
        if label:
            rotated["label"] = ep.grid(interpolation="linear").rotate(one["label"], g)
        return {**one, **rotated}

    return transform


def haar_rotation() -> Tensor:
    return torch.from_numpy(Rotation.random().as_matrix())


def euler() -> Tensor:
    return torch.from_numpy(Rotation.from_euler("xyz", (2 * torch.pi * torch.rand(3)).numpy()).as_matrix())


def about_z() -> Tensor:
    return torch.from_numpy(Rotation.from_euler("z", float(2 * torch.pi * torch.rand(()))).as_matrix())


def checked(transform: Any, one: Names, schema: ep.Schema | None = None, **how: Any) -> ep.AugmentationCheck:
    return ep.check_augmentation(transform, one, schema, progress=False, draws=300, **how)


DECLARED = ep.Schema({"image": ep.grid()}, {"label": ep.grid()})


@pytest.mark.slow
@pytest.mark.parametrize("schema", [None, DECLARED], ids=["found out", "declared"])
@pytest.mark.parametrize("shape", [(6, 6, 6), (5, 5, 7), (4, 5, 6)], ids=str)
def test_the_right_rotations_of_a_box_pass(shape: tuple[int, ...], schema: ep.Schema | None) -> None:
    check = checked(ep.RandomRotation(DECLARED, seed=1), sample(*shape), schema)
    assert check.ok, check
    assert check["labels: label"].passed
    assert f"{ {1: 24, 2: 8, 3: 4}[len(set(shape))] } rotations" in check["uniform"].sentence


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transform", "wrong", "said"),
    [
        (by_right_angles((0, 1)), {"uniform"}, "rotates about one axis only: z"),
        (by_right_angles((1, 2), skip=0.0), {"uniform"}, "never come"),
        (flips, {"proper", "uniform"}, "mirror images"),
        (lambda one: {**by_right_angles((0, 1))(one), "label": one["label"]}, {"uniform", "labels: label"}, "stale"),
        (lambda one: one, {"uniform"}, "nothing is rotated"),
        (lambda one: {**one, "image": torch.rand_like(one["image"])}, {"rigid"}, "no rotation explains"),
    ],
    ids=["one plane", "never still", "mirrors", "label left behind", "nothing", "noise"],
)  # fmt: skip
def test_faults_in_moving_voxels_are_named(transform: Any, wrong: set[str], said: str) -> None:
    check = checked(transform, sample(6, 6, 6))
    assert wrong <= {finding.name for finding in check.wrong} <= wrong | {"labels: label"}, check
    assert said in " ".join(finding.sentence for finding in check.wrong)


@pytest.mark.slow
def test_quarter_rotations_in_three_planes_reach_all_24_rotations_unevenly_or_evenly() -> None:
    """Closed form: rotations about z, then x, then z are uniform over the group where each of them is."""
    assert checked(by_right_angles((0, 1), (1, 2), (0, 1), (0, 2), (0, 1), skip=0.25), sample(6, 6, 6)).ok
    uneven = checked(by_right_angles((0, 1), (1, 2), skip=0.75), sample(6, 6, 6))
    assert not uneven["uniform"].passed


@pytest.mark.slow
def test_draws_that_know_of_the_one_before_are_noticed() -> None:
    elements = ep.RotationPlan("cube").rotations()[0]
    state = [0]

    def one_by_one(one: Names) -> Names:
        state[0] += 7
        g = elements[state[0] % 24]
        return {**one, **{name: ep.grid().rotate(one[name], g) for name in ("image", "label")}}

    check = checked(one_by_one, sample(6, 6, 6))
    assert check["uniform"].passed
    assert not check["independent"].passed


@pytest.mark.slow
def test_vectors_in_channels_must_rotate_as_their_voxels_move() -> None:
    schema = ep.Schema({"image": ep.grid(ep.scalar), "field": ep.grid(ep.vector)}, {})
    one = {"image": sample(6, 6, 6)["image"], "field": sample(6, 6, 6, channels=3)["image"]}
    assert checked(ep.RandomRotation(schema, seed=1), one, schema).ok
    scalars = ep.Schema({"image": ep.grid(), "field": ep.grid()}, {})
    check = checked(ep.RandomRotation(scalars, seed=1), one, schema)
    assert [finding.name for finding in check.wrong] == ["labels: field"]
    assert "vectors in its channels do not rotate" in check["labels: field"].sentence


def test_a_symmetric_grid_tells_nothing_and_is_refused() -> None:
    with pytest.raises(ep.EquivProbeError, match="leave as it is"):
        checked(ep.RandomRotation(DECLARED), {"image": torch.ones(1, 6, 6, 6), "label": torch.ones(1, 6, 6, 6)})


@pytest.mark.slow
@pytest.mark.parametrize("content", ["smooth", "noise"])
def test_interpolated_haar_rotations_pass_and_others_do_not(content: str) -> None:
    one = (
        smooth()
        if content == "smooth"
        else {name: v.double() for name, v in sample(12, 12, 12).items() if name != "id"}
    )
    good = checked(interpolated(haar_rotation), one, DECLARED)
    assert good.ok, good
    assert "interpolate" in good["rigid"].sentence
    for draw, said in ((euler, "Euler"), (about_z, "not uniform")):
        check = checked(interpolated(draw), one, DECLARED)
        assert [finding.name for finding in check.wrong] == ["uniform"], check
        assert said in check["uniform"].sentence
    stale = checked(interpolated(haar_rotation, label=False), one, DECLARED)
    assert [finding.name for finding in stale.wrong] == ["labels: label"]
    assert "stale" in stale["labels: label"].sentence


@pytest.mark.slow
def test_interpolated_mirror_images_are_noticed() -> None:
    one = {name: v.double() for name, v in sample(12, 12, 12, channels=3).items() if name == "image"}

    def mirrored(values: Names) -> Names:
        sign = -1.0 if torch.rand(()) < 0.5 else 1.0
        return {**values, "image": ep.grid(interpolation="linear").rotate(values["image"], sign * haar_rotation())}

    assert not checked(mirrored, one)["proper"].passed
    assert checked(mirrored, one, improper=True).ok
