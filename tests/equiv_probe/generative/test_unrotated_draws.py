"""Draws and end points that do not rotate with a sampler's noise are said, and not counted in silence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import equiv_probe as ep

B, N = 8, 6


def equivariant(x: Tensor) -> Tensor:
    return x * (1 - 0.3 * torch.tanh(x.square().sum(-1, keepdim=True)))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1, 3)])
def test_one_direction_for_all_samples_rotates_where_these_rotate_alike(shape: tuple[int, ...]) -> None:
    def sampler(noise: Tensor) -> Tensor:
        return equivariant(noise) + 0.1 * torch.randn(shape, dtype=noise.dtype)

    def audit(**options: object) -> ep.SamplerAudit:
        return ep.audit_sampler(sampler, (B, N, 3), dtype=torch.float64, progress=False, **options)  # type: ignore[arg-type]

    with pytest.raises(ep.EquivProbeError, match="per_sample=False"):
        audit()
    assert audit(per_sample=False).rms < 1e-14
    assert audit(rotates=lambda draw: False).rms > 0.05, "the negative control: taken for numbers it looks broken"


def test_three_numbers_that_are_not_normal_are_no_direction() -> None:
    found = ep.audit_sampler(
        lambda noise: noise * torch.rand(3, dtype=noise.dtype).sum(), (B, N, 3), dtype=torch.float64, progress=False
    )
    assert found.rms < 1e-14
    assert not found.notes


def test_normal_draws_that_look_like_directions_and_do_not_rotate_are_named() -> None:
    found = ep.audit_sampler(
        lambda noise: equivariant(noise) + torch.randn(5, 3, dtype=noise.dtype).mean(0),
        (B, N, 3),
        dtype=torch.float64,
        progress=False,
    )
    assert found.rms > 0.1
    assert any("(5, 3)" in note and "did not rotate" in note for note in found.notes)


def principal(x: Tensor) -> Tensor:
    x = x - x.mean(1, keepdim=True)
    along = x @ torch.linalg.svd(x, full_matrices=False)[2].mT
    return along * torch.sign(along.pow(3).sum(1, keepdim=True))


@pytest.mark.parametrize(("last", "is_said"), [(principal, True), (lambda x: x, False)], ids=["own frame", "as it is"])
def test_samples_in_a_frame_of_their_own_are_said_to_be(last: object, is_said: bool) -> None:
    def sampler(noise: Tensor) -> Tensor:
        for _ in range(3):
            noise = equivariant(noise + 0.1 * torch.randn_like(noise))
        return last(noise)  # type: ignore[operator, no-any-return]

    found = ep.audit_sampler(sampler, (B, N, 3), dtype=torch.float64, progress=False)
    assert (found.rms > 0.1) == is_said
    assert any("same numbers in every orientation" in note for note in found.notes) == is_said


def test_a_broken_sampler_is_in_no_frame_of_its_own() -> None:
    """Negative control."""
    stretched = torch.tensor([1.0, 1.3, 0.7], dtype=torch.float64)
    found = ep.audit_sampler(
        lambda noise: equivariant(noise * stretched), (B, N, 3), dtype=torch.float64, progress=False
    )
    assert found.rms > 0.1
    assert not found.notes


def test_places_in_the_middle_of_a_box_are_in_no_frame_of_their_own() -> None:
    """Negative control: they hardly move, since the noise hardly moves them, and not because they do not rotate."""
    line = torch.arange(4, dtype=torch.float64)
    places = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    start = torch.randn(3, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def sampler(noise: Tensor) -> Tensor:
        return noise.flatten(2).softmax(-1) @ places

    found = ep.audit_sampler(sampler, start, noise=ep.grid(), outputs=ep.point, progress=False)
    assert found.rms > 1
    assert not any("every orientation" in note for note in found.notes)


def test_noise_that_is_the_same_along_axes_of_a_grid_is_named() -> None:
    start = torch.randn(3, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for shape, is_said in (((3, 1, 4, 1, 1), True), ((3, 16), False), ((3, 1, 4, 4, 4), False)):
        found = ep.audit_sampler(
            lambda noise, shape=shape: noise + 0.1 * torch.randn(shape, dtype=noise.dtype).mean(),  # type: ignore[misc]
            start,
            noise=ep.grid(),
            progress=False,
        )
        assert any("did not rotate" in note for note in found.notes) == is_said
