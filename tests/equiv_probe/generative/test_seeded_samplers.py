"""Samplers that seed themselves draw no noise, and samplers that return zeros show nothing: neither passes unsaid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (8, 6, 3)
KEPT = torch.Generator().manual_seed(0)


def denoised(x: Tensor) -> Tensor:
    """Equivariant."""
    return x * (1 - 0.3 * torch.tanh(x.square().sum(-1, keepdim=True)))


def audited(sampler: Callable[[Tensor], Tensor], **options: object) -> ep.SamplerAudit:
    return ep.audit_sampler(sampler, SHAPE, dtype=torch.float64, progress=False, **options)


def seeds_torch(noise: Tensor) -> Tensor:
    torch.manual_seed(0)
    return denoised(noise + torch.randn_like(noise))


def makes_a_generator(noise: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return denoised(noise + torch.randn(noise.shape, generator=generator, dtype=noise.dtype))


def keeps_a_generator(noise: Tensor) -> Tensor:
    return denoised(noise + torch.randn(noise.shape, generator=KEPT, dtype=noise.dtype))


def draws(noise: Tensor) -> Tensor:
    return denoised(noise + torch.randn_like(noise))


def seeds_for_nothing(noise: Tensor) -> Tensor:
    torch.manual_seed(0)
    return denoised(noise)


@pytest.mark.parametrize("sampler", [seeds_torch, makes_a_generator])
def test_a_sampler_that_seeds_itself_is_told_what_was_assumed(sampler: Callable[[Tensor], Tensor]) -> None:
    """What it adds is in truth the same constant in every call, which does not rotate."""
    noise = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    half_turn = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    assert not torch.allclose(sampler(noise * half_turn) * half_turn, sampler(noise), atol=0.1), "the negative control"
    (note,) = audited(sampler).notes
    assert "seeds torch itself" in note
    assert "seed outside" in note


@pytest.mark.parametrize("law", [None, True])
@pytest.mark.parametrize("sampler", [keeps_a_generator, draws, denoised, seeds_for_nothing])
def test_others_are_not(sampler: Callable[[Tensor], Tensor], law: bool | None) -> None:
    found = audited(sampler, law=law)
    assert not found.notes
    assert found.verdict == "round-off"


def test_zeros_are_not_called_equivariant() -> None:
    found = audited(torch.zeros_like)
    assert found.verdict == "unknown"
    assert "zero" in found.measured[0].sentence
