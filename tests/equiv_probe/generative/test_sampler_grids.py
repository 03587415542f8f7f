"""Samplers of voxels: noise moved by the cube's rotations, exactly; equivariant networks and others."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.generative.initial_noise import InitialNoise
from equiv_probe.rotations.designs import group

from .samplers import quiet, rotations

if TYPE_CHECKING:
    from collections.abc import Callable

DOUBLE = {"dtype": torch.float64}
GRID = ep.grid()
SHAPE = (3, 1, 6, 6, 6)
CUBE = ep.RotationPlan("cube")


def network(*, symmetric: bool, layers: int = 2, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Convolutions, their kernels averaged over the 24 rotations if symmetric: then exactly equivariant."""
    torch.manual_seed(0)
    widths = [1, *([4] * (layers - 1)), 1]
    convolutions = [nn.Conv3d(a, b, 3, padding=1).to(dtype) for a, b in pairwise(widths)]
    for one in convolutions:
        if symmetric:
            one.weight.data = torch.stack([GRID.rotate(one.weight.data, g) for g in group("octahedral")]).mean(0)
    parts = [part for one in convolutions for part in (one, nn.SiLU())]
    return nn.Sequential(*parts[:-1])


def walk_jump(net: nn.Module, draw: Callable[[Tensor], Tensor] = torch.randn_like) -> Callable[[Tensor], Tensor]:
    """Langevin steps in smoothed space with fresh noise, then the denoiser."""

    def sampler(y: Tensor) -> Tensor:
        for _ in range(4):
            y = y + 0.2 * (net(y) - y) + 0.3 * draw(y)
        return net(y)

    return sampler


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layers", [2, 6])
def test_an_equivariant_network_and_another(dtype: torch.dtype, layers: int) -> None:
    """The floor is one of arithmetic: what is moved there and back rounds nothing."""
    good = quiet(walk_jump(network(symmetric=True, layers=layers, dtype=dtype)), SHAPE, noise=GRID, dtype=dtype)
    assert good.verdict == "round-off"
    assert good["end points"].floor > 0
    assert [(draw["shape"], draw["turned"]) for draw in good.draws] == [([3, 1, 6, 6, 6], True)]
    bad = quiet(walk_jump(network(symmetric=False, layers=layers, dtype=dtype)), SHAPE, noise=GRID, dtype=dtype)
    assert bad.verdict == "broken"
    left = quiet(
        walk_jump(network(symmetric=True, layers=layers, dtype=dtype)),
        SHAPE,
        noise=GRID,
        dtype=dtype,
        rotates=lambda draw: False,
    )
    assert left.verdict == "broken", "negative control: later noise left where it is"


def test_a_linear_sampler_follows_the_linear_algebra() -> None:
    """``y = w ⊙ ε`` with a field of weights: rotated back it is ``(g⁻¹ w) ⊙ ε``; all 24 rotations, to rounding."""
    weights = torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(1), **DOUBLE)
    audit = quiet(lambda y: weights * y, SHAPE, noise=GRID, plan=CUBE, seed=3)
    noise = InitialNoise(SHAPE, dtype=torch.float64, rep=GRID).draw(3)
    gaps = torch.stack([(GRID.rotate_back(weights, g) - weights) * noise for g in group("octahedral")])
    assert abs(audit.rms - float(gaps.square().mean().sqrt())) < 1e-14
    each = gaps.square().flatten(2).mean(2)
    found = torch.tensor([entry["rms"] for entry in audit["end points"].by_sample], **DOUBLE)
    assert (found - each.mean(0).sqrt()).abs().max() < 1e-14
    spread = gaps - gaps.mean(0)
    assert abs(audit["end points"].spread - float(spread.square().mean().sqrt())) < 1e-14


def test_later_noise_follows_by_hand() -> None:
    """All draws are recorded, and the rotated runs of a broken network are computed by hand."""
    drawn: list[Tensor] = []
    net = network(symmetric=False)

    def by_hand(steps: list[Tensor]) -> Tensor:
        y = steps[0]
        for z in steps[1:]:
            y = y + 0.2 * (net(y) - y) + 0.3 * z
        return y

    def sampler(y: Tensor) -> Tensor:
        steps = [y] + [torch.randn_like(y) for _ in range(3)]
        drawn.extend(steps)
        return by_hand(steps)

    plan = ep.RotationPlan("cube", subset=3)
    audit = quiet(sampler, SHAPE, noise=GRID, plan=plan)
    plain, each = drawn[:4], []
    with torch.no_grad():
        for g in rotations(plan, 3):
            moved = by_hand([GRID.rotate(z, g) for z in plain])
            each.append((GRID.rotate_back(moved, g) - by_hand(plain)).square().mean())
    assert abs(audit.rms - float(torch.stack(each).mean().sqrt())) < 1e-14
    assert audit.rms > 1e-3


NOISES: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.rand_like,
    "uniform_": lambda y: torch.empty_like(y).uniform_(-1, 1),
    "dropout of all": lambda y: nn.functional.dropout(torch.ones_like(y), 0.3, training=True),
    "half the resolution": lambda y: (
        torch.randn(len(y), 1, 3, 3, 3, **DOUBLE)
        .repeat_interleave(2, 2)
        .repeat_interleave(2, 3)
        .repeat_interleave(2, 4)
    ),
    "more channels": lambda y: torch.randn(len(y), 5, 6, 6, 6, **DOUBLE).mean(1, keepdim=True),
    "no channels": lambda y: torch.randn(len(y), 6, 6, 6, **DOUBLE)[:, None],
    "all steps in advance": lambda y: torch.randn(4, *y.shape, **DOUBLE)[2],
    "classes": lambda y: torch.randint(0, 3, y.shape).to(y),
    "one for each grid": lambda y: torch.randn(len(y), 1, 1, 1, 1, **DOUBLE) * y,
}


@pytest.mark.parametrize("how", NOISES)
def test_noise_of_any_law_moves_with_its_voxels(how: str) -> None:
    """Voxels are moved, and their numbers are not changed: any noise that is alike everywhere is as likely."""
    audit = quiet(lambda y: 0.5 * y + NOISES[how](y), SHAPE, noise=GRID)
    assert audit.verdict == "round-off"
    if how != "one for each grid":
        left = quiet(lambda y: 0.5 * y + NOISES[how](y), SHAPE, noise=GRID, rotates=lambda draw: False)
        assert left.verdict == "broken"


def test_boxes_vectors_single_grids_and_other_outputs() -> None:
    good, bad = (walk_jump(network(symmetric=symmetric)) for symmetric in (True, False))
    for sampler, verdict in ((good, "round-off"), (bad, "broken")):
        assert quiet(sampler, (3, 1, 6, 4, 8), noise=GRID).verdict == verdict
        assert quiet(sampler, (1, 6, 6, 6), noise=GRID).verdict == verdict
        assert quiet(
            lambda y, s=sampler: s(y[:, None])[:, 0], (3, 6, 6, 6), noise=ep.grid(channel_axis=False)
        ).verdict == (verdict)
    field = ep.grid(ep.vector)
    assert quiet(lambda y: 0.5 * y + torch.randn_like(y), (3, 3, 4, 4, 4), noise=field).verdict == "round-off"
    scaled = torch.tensor([1.0, 1.0, 2.0], **DOUBLE)[:, None, None, None]
    assert quiet(lambda y: scaled * y, (3, 3, 4, 4, 4), noise=field).verdict == "broken"
    outputs = {"total": ep.scalar, "field": GRID}
    several = quiet(lambda y: {"total": y.sum((1, 2, 3, 4)), "field": bad(y)}, SHAPE, noise=GRID, outputs=outputs)
    assert {one.name: one.verdict for one in several.measured} == {"total": "round-off", "field": "broken"}


@pytest.mark.slow
def test_in_distribution() -> None:
    good, bad = (walk_jump(network(symmetric=symmetric)) for symmetric in (True, False))
    assert quiet(good, SHAPE, noise=GRID, law=96)["end points"].law["p_value"] > 0.01
    assert quiet(bad, SHAPE, noise=GRID, law=96)["end points"].law["p_value"] < 0.01


def test_random_frames_of_the_cube() -> None:
    """A twirled network of one random rotation of the cube at each step is noise, too."""
    schema = ep.Schema({"input": GRID}, {"0": GRID})
    twirled = ep.Twirled(network(symmetric=False), schema, ep.RotationPlan("cube", subset=1), mode="random")
    assert quiet(walk_jump(twirled), SHAPE, noise=GRID).verdict == "round-off"
    assert quiet(walk_jump(twirled), SHAPE, noise=GRID, frames="fixed").verdict == "broken"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "undeclared": ({}, r"noise=ep\.grid\(\)"),
    "interpolated": ({"noise": ep.grid(interpolation="linear")}, "without interpolation"),
    "no noise": ({"noise": ep.vector}, r"ep\.point, or ep\.grid"),
    "rotations that fit no grid": ({"noise": GRID, "plan": ep.RotationPlan("haar", 2)}, "cube"),
    "channels": ({"noise": ep.grid(ep.vector)}, "3 = 3 channels"),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_cannot_be_is_refused_with_the_way_out(how: str) -> None:
    options, words = WRONG[how]
    with pytest.raises(ep.EquivProbeError, match=words):
        quiet(lambda y: y, SHAPE, **options)


def test_draws_in_another_order_of_axes_are_refused() -> None:
    with pytest.raises(ep.EquivProbeError, match="a grid laid out like the noise"):
        quiet(lambda y: y + torch.randn(3, 6, 6, 6, 1, **DOUBLE).movedim(-1, 1), SHAPE, noise=GRID)
