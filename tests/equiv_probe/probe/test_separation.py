"""Weights and labels read off a squared error by its derivatives: planted ones come back; couplings do not pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.probe.separation import agrees, owners_of, read_off
from equiv_probe.schema.structures import Structures

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_weights_and_labels_come_back() -> None:
    p, y, w = draw(COUNT, 3, 3).requires_grad_(), draw(COUNT, 3, 3, seed=1), draw(COUNT, 3, 3, seed=2).square()
    w[0, 1] = 0
    found = read_off((w * (p - y).square()).sum(), [{"v": p}])
    assert bool(found.convex)
    assert torch.allclose(found.curvature[0]["v"], 2 * w, rtol=1e-12)
    assert torch.allclose(found.labels[0]["v"][w > 0], y[w > 0], rtol=1e-9)
    owners = owners_of([{"v": p}], [Structures("leading", COUNT)])
    other = draw(COUNT, 3, 3, seed=3)
    assert torch.allclose(found.losses([{"v": other}], owners), (w * (other - y).square()).sum((1, 2)), rtol=1e-9)


def test_what_has_no_weight_counts_for_nothing() -> None:
    """A structure without weight, and a call whose output the loss does not use; the rest is scaled by its number."""
    p, unused = draw(COUNT, 3).requires_grad_(), draw(COUNT, 3).requires_grad_()
    held = torch.tensor([1.0, 0, 1, 1, 0], dtype=torch.float64)[:, None]
    found = read_off((held * p.square()).sum(), [{"v": unused}, {"v": p}])
    weight, scale = found.counts(owners_of([{"v": unused}, {"v": p}], [Structures("leading", COUNT)] * 2))
    assert weight.tolist() == [0] * COUNT + [1, 0, 1, 1, 0]
    assert scale.tolist() == [0] * COUNT + [3] * COUNT


def other_losses() -> dict[str, Callable[[Tensor], Tensor]]:
    y, mixing = draw(COUNT, 3, seed=1), draw(COUNT, COUNT, seed=2)
    return {
        "concave": lambda p: (p - y).square()[1:].sum() - (p - y).square()[0].sum(),
        "linear": lambda p: p.sum(),
        "linear beside": lambda p: (p - y).square()[1:].sum() + p[0].sum(),
        "absolute": lambda p: (p - y).abs().sum(),
        "centred": lambda p: (p - p.mean(0) - y + y.mean(0)).square().sum(),
        "mixed": lambda p: (mixing @ (p - y)).square().sum(),
        "logarithm": lambda p: (p - y).square().mean().log1p(),
        "constant": lambda p: (p - y).square().sum() + 3,
        "labels that follow": lambda p: (p - p.detach().roll(1, 0)).square().sum(),
    }


@pytest.mark.parametrize("case", other_losses())
def test_other_losses_do_not_pass(case: str) -> None:
    """By a sign, a gradient without curvature, or numbers that do not come out: at the point itself or at another."""
    loss = other_losses()[case]
    leaf = draw(COUNT, 3).requires_grad_()
    found = read_off(loss(leaf), [{"v": leaf}])
    owners = owners_of([{"v": leaf}], [Structures("leading", COUNT)])
    outputs = [leaf.detach(), draw(COUNT, 3, seed=7), draw(COUNT, 3, seed=8)]
    by_structure = [found.losses([{"v": one}], owners) for one in outputs]
    assert not bool(found.convex & agrees(by_structure, [loss(one) for one in outputs], 1e-16))


def test_nan_agrees_with_nothing() -> None:
    nan = torch.tensor(torch.nan)
    assert not bool(agrees([nan[None]], [nan], 0.1))


def test_an_answer_that_is_not_by_structure() -> None:
    with pytest.raises(ep.EquivProbeError, match="a first axis of structures or nodes"):
        owners_of([{"v": draw(2, 3)}], [Structures("leading", COUNT)])
