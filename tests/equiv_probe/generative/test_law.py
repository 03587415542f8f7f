"""The test of equivariance in distribution: its size, its power, and what it is asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.generative.law import Block, energy_test, features, two_rotations
from equiv_probe.representations.representation import point
from equiv_probe.rotations.haar import angles, haar
from equiv_probe.schema.structures import Structures

from .drawn import augmented, householder
from .samplers import langevin, quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    Cloud = Callable[[int, torch.Generator], Tensor]

DOUBLE = {"dtype": torch.float64}
MOLECULE = torch.tensor([[1.3, -0.2, 0.4], [-0.9, 1.1, -0.3], [0.2, -1.4, 0.9], [-0.6, 0.5, -1.0]], **DOUBLE)


def gaussian(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, 4, 3, generator=generator, **DOUBLE)


def tumbling(count: int, generator: torch.Generator) -> Tensor:
    """One molecule in uniform orientation: its mean is where it is, but for rounding."""
    return (MOLECULE - MOLECULE.mean(0)) @ haar(count, generator).mT


def shuffled(count: int, generator: torch.Generator) -> Tensor:
    order = torch.rand(count, 4, generator=generator).argsort(1)
    return torch.take_along_dim(tumbling(count, generator), order[..., None], 1)


def shifted(count: int, generator: torch.Generator) -> Tensor:
    return gaussian(count, generator) + torch.tensor([0.0, 0.25, 0.0], **DOUBLE)


def along_the_diagonal(count: int, generator: torch.Generator) -> Tensor:
    return gaussian(count, generator) + 0.15


def squeezed(count: int, generator: torch.Generator) -> Tensor:
    return gaussian(count, generator) * torch.tensor([1.0, 1.0, 0.65], **DOUBLE)


def a_third_upright(count: int, generator: torch.Generator) -> Tensor:
    upright = torch.rand(count, 1, 1, generator=generator, **DOUBLE) < 1 / 3
    return torch.where(upright, MOLECULE - MOLECULE.mean(0), tumbling(count, generator))


def shuffled_and_upright(count: int, generator: torch.Generator) -> Tensor:
    """Where the order of the atoms means nothing, and labels tell little: moments do."""
    order = torch.rand(count, 4, generator=generator).argsort(1)
    return torch.take_along_dim(a_third_upright(count, generator), order[..., None], 1)


def p_value(cloud: Cloud, generator: torch.Generator, count: int = 128, *, by_run: int = 0) -> float:
    """Of clouds against independent ones that are rotated back."""
    groups = torch.arange(count) % 2 if not by_run else torch.arange(count) // by_run % 2
    g = two_rotations(generator)[groups]
    structures = Structures("leading", count)
    plain, rotated = (features(x, point, structures) for x in (cloud(count, generator), cloud(count, generator) @ g))
    runs = torch.arange(count) // by_run if by_run else torch.arange(count)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    return energy_test(plain, rotated, runs, groups, by_run=bool(by_run), seed=seed, swaps=199).p_value


@pytest.mark.slow
@pytest.mark.parametrize("cloud", [gaussian, tumbling, shuffled])
def test_size(cloud: Cloud) -> None:
    """Swaps are exact: of 400 tests of isotropic clouds 5 % refuse at 5 % (4 σ are 4.4 %), 1 % at 1 % (4 σ: 2 %)."""
    generator = torch.Generator().manual_seed(0)
    found = torch.tensor([p_value(cloud, generator) for _ in range(400)])
    assert abs(float((found <= 0.05).double().mean()) - 0.05) < 0.044
    assert float((found <= 0.01).double().mean()) < 0.03
    assert abs(float(found.mean()) - 0.5) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("cloud", [shifted, along_the_diagonal, squeezed, a_third_upright, shuffled_and_upright])
def test_power(cloud: Cloud) -> None:
    """A preferred direction, any, is seen by 128 samples of each kind in nine of ten tests at 5 %."""
    generator = torch.Generator().manual_seed(0)
    found = torch.tensor([p_value(cloud, generator) for _ in range(60)])
    assert float((found <= 0.05).double().mean()) > 0.9


@pytest.mark.slow
def test_samples_of_one_run_that_share_a_rotation_are_swapped_together() -> None:
    """Eight copies of one orientation a run are isotropic, but only whole runs can be swapped: one by one, refused."""

    def copies(count: int, generator: torch.Generator) -> Tensor:
        return tumbling(count // 8, generator).repeat_interleave(8, 0)

    def by_run(cloud: Cloud, generator: torch.Generator) -> float:
        return p_value(cloud, generator, by_run=8)

    generator = torch.Generator().manual_seed(0)
    together = torch.tensor([by_run(copies, generator) for _ in range(300)])
    assert abs(float((together <= 0.05).double().mean()) - 0.05) < 0.05
    one_by_one = torch.tensor([p_value(copies, generator) for _ in range(50)])
    assert float((one_by_one <= 0.05).double().mean()) > 0.5, "negative control"
    upright = torch.tensor([by_run(shifted, generator) for _ in range(30)])
    assert float((upright <= 0.05).double().mean()) > 0.7


def test_invariants_would_not_see_it() -> None:
    """Negative control: distances of a molecule that stands upright are those of one that tumbles."""
    generator = torch.Generator().manual_seed(0)
    count = 128
    groups, runs = torch.arange(count) % 2, torch.arange(count)

    def upright(kind: int) -> Tensor:
        x = a_third_upright(count, generator) + 0.05 * gaussian(count, generator)
        return x @ two_rotations(generator)[groups] if kind else x

    def distances(x: Tensor) -> list[Block]:
        return [Block(torch.cdist(x, x).flatten(1), 1.0)]

    found = [
        energy_test(distances(upright(0)), distances(upright(1)), runs, groups, by_run=False, seed=k, swaps=199).p_value
        for k in range(100)
    ]
    assert sum(p <= 0.05 for p in found) < 14


def test_features_of_every_layout_are_the_same() -> None:
    """Dense with a mask, flat with an index, one by one."""
    sizes = torch.tensor([4, 2, 3])
    mask = torch.arange(4) < sizes[:, None]
    dense = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    index = torch.arange(3).repeat_interleave(sizes)
    padded = features(dense, point, Structures("leading", 3, mask=mask))
    flat = features(dense[mask], point, Structures("index", 3, index=index))
    for a, b in zip(padded, flat, strict=True):
        assert (a.values - b.values).abs().max() < 1e-14
    for u, size in enumerate(sizes.tolist()):
        alone = features(dense[u, :size], point, Structures("one", 1))
        assert (alone[1].values - padded[1].values[u]).abs().max() < 1e-14
        assert (alone[2].values - padded[2].values[u]).abs().max() < 1e-14
        x = dense[u, :size] - dense[u, :size].mean(0)
        assert abs(float(alone[2].values[0, 0]) - float((x[:, 0] ** 2).mean())) < 1e-14


def test_two_rotations_leave_no_direction_alone() -> None:
    """By 120° about axes at right angles; of the cube two of its own, of a box by 180°."""
    g = two_rotations(torch.Generator().manual_seed(0))
    assert (torch.rad2deg(angles(g)) - 120).abs().max() < 1e-6
    axes = torch.linalg.eigh(g + g.mT).eigenvectors[..., -1]
    assert abs(float(axes[0] @ axes[1])) < 1e-7
    for is_cube in (True, False):
        own = two_rotations(torch.Generator(), grid=ep.grid(), is_cube=is_cube)
        assert torch.equal(own, own.round())
        assert torch.equal(torch.linalg.det(own).round(), torch.ones(2, **DOUBLE))
        assert not torch.equal(own[0], own[1])


def test_asked_for(tmp_path: Any) -> None:
    """Beside the paths: equivariant dynamics, and a well that is steeper along z; saved, shown and read again."""
    good = quiet(langevin, (32, 4, 3), law=True)
    assert good.verdict == "round-off"
    law = good["end points"].law
    assert law["p_value"] > 0.01
    assert law["samples"] == 256
    assert law["by_run"] is False
    assert "in distribution" in good.sentence
    assert f"p = {law['p_value']:.2g} in distribution" in " ".join(str(good).split())
    bad = quiet(lambda x: langevin(x, 3.0), (32, 4, 3), law=128)
    assert bad.verdict == "broken"
    assert bad["end points"].law["samples"] == 128
    assert bad["end points"].law["p_value"] < 0.01
    bad.save(tmp_path / "audit.json")
    assert json.loads((tmp_path / "audit.json").read_text())["measured"][0]["law"] == bad["end points"].law
    assert ep.SamplerAudit.load(tmp_path / "audit.json")["end points"].law == bad["end points"].law
    assert not quiet(langevin, (4, 4, 3))["end points"].law, "only where it is needed"
    assert len(good.blind_spots) < len(quiet(langevin, (4, 4, 3)).blind_spots)


def test_paths_that_break_and_a_law_that_does_not() -> None:
    """Later noise in the order of the x coordinates: as likely in every frame, and another path."""

    def sampler(x: Tensor) -> Tensor:
        order = x[..., 0].argsort(1)
        return 0.7 * x + 0.7 * torch.take_along_dim(torch.randn_like(x), order[..., None], 1)

    assert quiet(sampler, (64, 4, 3)).verdict == "broken"
    audit = quiet(sampler, (64, 4, 3), law=True)
    assert audit.verdict == "path only"
    assert "p = " in audit.sentence


@pytest.mark.slow
def test_noise_that_is_given_a_mask_and_several_outputs() -> None:
    """Given noise is taken in random orientations; each output has a p-value of its own."""
    mask = torch.arange(4) < torch.tensor([4, 3, 2, 4])[:, None]
    noise = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)

    def sampler(x: Tensor) -> dict[str, Tensor]:
        x = x + 0.3 * torch.randn_like(x)
        return {"x": x, "v": x * torch.tensor([1.0, 1.0, 0.3], **DOUBLE)}

    audit = quiet(sampler, noise, mask=mask, outputs={"x": ep.point, "v": ep.vector}, law=256)
    assert audit["x"].law["p_value"] > 0.01
    assert audit["v"].law["p_value"] < 0.01
    index = torch.arange(3).repeat_interleave(torch.tensor([4, 2, 3]))
    flat = quiet(lambda x: langevin(x, 3.0), (9, 3), batch=index, law=256)
    assert flat["end points"].law["p_value"] < 0.01
    assert quiet(langevin, (9, 3), batch=index, law=256)["end points"].law["p_value"] > 0.01


@pytest.mark.slow
def test_verdicts_over_seeds() -> None:
    """Of samplers whose drawn rotations are not uniform: equivariant ones are called broken at most once in twelve."""
    found = [quiet(augmented(householder, steps=1), (64, 4, 3), seed=seed, law=128).verdict for seed in range(12)]
    assert found.count("broken") <= 1
    assert found.count("path only") >= 11
    bad = [quiet(augmented(householder, 0.5, steps=1), (64, 4, 3), seed=seed, law=128).verdict for seed in range(4)]
    assert bad == ["broken"] * 4
