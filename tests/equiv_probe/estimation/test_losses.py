"""Losses against torch's own, weights and masks against explicit sums, and which losses depend on the frame."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import equiv_probe as ep
from equiv_probe.estimation.losses import LOSSES, Reduction, frame_dependence, resolve
from equiv_probe.rotations.haar import haar


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    p, t = (2 * torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return p, t


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mse", functional.mse_loss),
        ("l2", functional.mse_loss),
        ("mae", functional.l1_loss),
        ("huber", functional.huber_loss),
        ("mae-norm", lambda p, t: (p - t).norm(dim=-1).mean()),
        ("l1-norm", lambda p, t: (p - t).norm(dim=-1).mean()),
        ("huber-norm", lambda p, t: functional.huber_loss((p - t).norm(dim=-1), torch.zeros(7, dtype=torch.float64))),
    ],
)
def test_losses_are_the_usual_ones(name: str, reference) -> None:
    p, t = pair(7, 3)
    value, weight = Reduction()(resolve(name).elements(p, t), 0)
    assert torch.allclose(value, reference(p, t).reshape(1), atol=1e-14)
    assert float(weight) in {21.0, 7.0}


def test_cross_entropy_of_indices_and_of_probabilities() -> None:
    logits = pair(3, 2, 7, 4)[0]
    index = torch.tensor([0, 3, 1, 2, 2, 0, 1])
    expected = torch.stack([functional.cross_entropy(x, index, reduction="none") for x in logits.reshape(6, 7, 4)])
    for target in (index, functional.one_hot(index, 4).double()):
        found = LOSSES["cross-entropy"].elements(logits, target)
        assert torch.allclose(found.reshape(6, 7), expected, atol=1e-14)


def test_unknown_loss_and_callables() -> None:
    with pytest.raises(ep.EquivProbeError, match="one of mse, mae, mae-norm, huber, huber-norm, cross-entropy"):
        resolve("rmse")
    assert resolve(functional.mse_loss) is functional.mse_loss


def test_weights_and_masks_are_explicit_weighted_means() -> None:
    p, t = pair(7, 3)
    elements = (p - t).square()
    per_node, per_element = torch.rand(7, dtype=torch.float64), torch.rand(7, 3, dtype=torch.float64)
    mask = torch.tensor([1, 1, 0, 1, 0, 1, 1], dtype=torch.bool)
    for weights, keep, factor in (
        (per_node, None, per_node[:, None].expand(7, 3)),
        (per_element, None, per_element),
        (None, mask, mask[:, None].expand(7, 3).double()),
        (per_element, mask, per_element * mask[:, None]),
        (torch.tensor([1.0, 2.0, 3.0]), None, torch.tensor([1.0, 2.0, 3.0]).expand(7, 3)),
    ):
        value, weight = Reduction(None, weights, keep)(elements, 0)
        assert torch.allclose(value, ((elements * factor).sum() / factor.sum()).reshape(1), atol=1e-14)
        assert torch.allclose(weight, factor.sum().double().reshape(1))


def test_a_masked_nan_does_not_poison() -> None:
    elements = torch.tensor([[1.0, 2.0], [torch.nan, 4.0], [torch.nan, torch.nan]], dtype=torch.float64)
    mask = torch.tensor([[1, 1], [0, 1], [0, 0]], dtype=torch.bool)
    value, weight = Reduction("leading", None, mask)(elements, 0)
    assert value.tolist() == [1.5, 4.0, 0.0]
    assert weight.tolist() == [2.0, 1.0, 0.0]


def test_structures_by_index_and_leading() -> None:
    elements = torch.rand(2, 6, 3, dtype=torch.float64)
    index = torch.tensor([0, 2, 2, 1, 0, 2])
    value, weight = Reduction(index)(elements, 1)
    for k in range(3):
        assert torch.allclose(value[:, k], elements[:, index == k].mean((1, 2)), atol=1e-14)
    assert weight.tolist() == [6.0, 3.0, 9.0]
    per_structure = torch.rand(2, 3, dtype=torch.float64)
    assert torch.equal(Reduction(index)(per_structure, 1)[0], per_structure), "one entry per structure is recognised"
    assert torch.allclose(Reduction("leading")(elements, 1)[0], elements.mean(-1), atol=1e-14)
    assert torch.allclose(Reduction()(elements, 1)[0][:, 0], elements.mean((1, 2)), atol=1e-14)


@pytest.mark.parametrize(
    ("reduction", "message"),
    [
        (Reduction("first"), 'None, "leading" or an index tensor'),
        (Reduction(torch.tensor([0, 1, 1])), "one entry per node or one per structure"),
        (Reduction(None, torch.ones(4)), r"weights or mask of shape \(4,\); expected something that broadcasts"),
    ],
)
def test_errors_teach(reduction: Reduction, message: str) -> None:
    with pytest.raises(ep.EquivProbeError, match=message):
        reduction(torch.zeros(7, 3), 0)


@pytest.mark.parametrize(
    ("name", "dependent"),
    [("mse", False), ("mae-norm", False), ("huber-norm", False), ("mae", True), ("huber", True)],
)
def test_component_wise_losses_depend_on_the_frame_and_norm_wise_ones_do_not(name: str, *, dependent: bool) -> None:
    p, t = pair(5, 3)
    drawn = haar(4, torch.Generator().manual_seed(0))
    change = frame_dependence(resolve(name), Reduction(), p, t, representations=(ep.vector, ep.vector), rotations=drawn)
    if dependent:
        assert change > 1e-3  # per cents, for 15 components of random direction
    else:
        assert change < 1e-13  # rounding


def test_voigt_squares_depend_on_the_frame_unless_shears_count_twice() -> None:
    p, t = pair(4, 6)
    drawn = haar(4, torch.Generator().manual_seed(0))
    pairs = (ep.voigt(), ep.voigt())
    shears = torch.tensor([1.0, 1, 1, 2, 2, 2])
    plain = frame_dependence(resolve("mse"), Reduction(), p, t, representations=pairs, rotations=drawn)
    doubled = frame_dependence(resolve("mse"), Reduction(None, shears), p, t, representations=pairs, rotations=drawn)
    assert plain > 1e-3
    assert doubled < 1e-13


@pytest.mark.parametrize("structures", [None, "leading"])
@pytest.mark.parametrize("shape", [(), (5,), (7, 3), (1, 1)])
def test_where_every_element_counts_the_result_is_that_of_weights_of_one(
    structures: str | None, shape: tuple[int, ...]
) -> None:
    elements = torch.randn(4, 3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with_ones = Reduction(structures, torch.ones(shape, dtype=torch.float64))
    for found, expected in zip(Reduction(structures)(elements, 2), with_ones(elements, 2), strict=True):
        assert torch.equal(found, expected)  # the same sums in the same order
