"""The replicate jackknife: unbiased for squared error, biased by O(1/R²) for other losses, the plug-in by O(1/R)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.estimation.jackknife import jackknife
from equiv_probe.estimation.losses import LOSSES
from equiv_probe.rotations.haar import haar


def reduced(elements: Tensor, lead: int) -> Tensor:
    return elements.flatten(lead).mean(-1)


def from_means(values: Tensor, target: Tensor, elements, sizes: Tensor | None = None):
    """Jackknife of replicate values ``(R, *L, *S)`` with one rotation in each replicate, for L one axis."""
    share = (torch.ones(len(values)) if sizes is None else sizes).double()
    share = (share / share.sum()).reshape(-1, *(1,) * (values.ndim - 1))
    mean = (share * values).sum(0)
    left_out = (mean - share * values) / (1 - share)
    losses = reduced(elements(values, target), 2)
    return jackknife(losses, reduced(elements(mean, target), 1), reduced(elements(left_out, target), 2), sizes)


@pytest.mark.parametrize("replicates", [2, 3, 7])
def test_squared_error_is_the_sample_variance_of_the_replicates(replicates: int) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(replicates, 5, 4, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    found = from_means(h, y, LOSSES["mse"].elements)
    assert torch.allclose(found.equiv, h.var(0, correction=1).mean((-2, -1)), atol=1e-14)
    assert torch.allclose(found.total, (h - y).square().mean((0, 2, 3)), atol=1e-14)
    assert torch.allclose(found.pseudo_mean.mean(0), found.mean, atol=1e-13)
    assert torch.allclose(found.pseudo_equiv.mean(0), found.equiv, atol=1e-13)


def test_groups_of_unequal_size_are_the_weighted_variance() -> None:
    # Eight replicates of mean 1 and variance 1 in four groups, target 0: L_mean = 1, L_total = 2, L_equiv = 1.
    generator = torch.Generator().manual_seed(1)
    sizes = torch.tensor([1.0, 2.0, 3.0, 2.0], dtype=torch.float64)
    each = torch.randn(8, 40_000, 3, generator=generator, dtype=torch.float64) + 1
    means = torch.stack([part.mean(0) for part in each.split([1, 2, 3, 2])])
    share = (sizes / 8).reshape(-1, 1, 1)
    mean = (share * means).sum(0)
    left_out = (mean - share * means) / (1 - share)
    losses = torch.stack([part.square().mean((0, 2)) for part in each.split([1, 2, 3, 2])])
    found = jackknife(losses, mean.square().mean(-1), left_out.square().mean(-1), sizes)
    for estimate, truth in ((found.mean, 1.0), (found.total, 2.0), (found.equiv, 1.0)):
        z = float((estimate.mean() - truth) / estimate.std() * math.sqrt(40_000))
        assert abs(z) < 4, (truth, z)  # 4σ: once in 16 000


def test_one_replicate_is_refused() -> None:
    with pytest.raises(ep.EquivProbeError, match=r"at least two \(four for error bars\)"):
        jackknife(torch.ones(1, 2), torch.ones(2), torch.ones(1, 2))


def test_stderr_is_that_of_a_mean_for_a_mean() -> None:
    losses = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = jackknife(losses, losses.mean(0), losses)
    assert torch.allclose(found.stderr(found.pseudo_total), losses.std(0) / math.sqrt(6), atol=1e-14)


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def log_cosh(prediction: Tensor, target: Tensor) -> Tensor:
    return torch.log(torch.cosh(prediction - target))


def biases(network, name: str, replicates: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bias of ``L_mean`` and its standard error, of the jackknife and of the plug-in, over many repetitions.

    The linear part of the loss at the twirl has mean zero and most of the noise; it is subtracted as a control variate.
    """
    elements = log_cosh if name == "log-cosh" else LOSSES[name].elements
    scale = {"huber": 4.0, "log-cosh": 3.0, "cross-entropy": 3.0}.get(name, 2.0)
    plan = ep.RotationPlan("lebedev-35", 1)
    twirl = torch.einsum("n,n...->...", plan.weights, scale * network.rotated_back(plan.rotations()[0]))
    noise = torch.randn(twirl.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    y = LABELS if name == "cross-entropy" else twirl + noise
    at = twirl.clone().requires_grad_()
    truth = reduced(elements(at, y), 0)
    (slope,) = torch.autograd.grad(truth, at)
    generator, by_jackknife, by_plug_in = torch.Generator().manual_seed(1), [], []
    for _ in range(40 if replicates > 8 else 20):
        h = scale * network.rotated_back(haar(replicates * 1000, generator).reshape(replicates, 1000, 3, 3))
        linear = ((h.mean(0) - twirl) * slope).flatten(1).sum(-1) + truth.detach()
        by_jackknife.append(from_means(h, y, elements).mean - linear)
        by_plug_in.append(reduced(elements(h.mean(0), y), 1) - linear)

    def bias(parts: list[Tensor]) -> tuple[float, float]:
        values = torch.cat(parts)
        return float(values.mean()), float(values.std() / math.sqrt(len(values)))

    return bias(by_jackknife), bias(by_plug_in)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["huber", "huber-norm", "mae-norm", "cross-entropy", "log-cosh"])
def test_bias_is_of_second_order_where_the_plug_in_is_of_first(name: str, make_network) -> None:
    network = make_network(vectors=True, gain=1.5)
    found = {replicates: biases(network, name, replicates) for replicates in (8, 16)}
    (rough, rough_error), (plug_rough, _) = found[8]
    (fine, fine_error), (plug_fine, plug_error) = found[16]
    # Doubling R divides an O(1/R²) bias by 4 and an O(1/R) bias by 2, up to the next order in 1/R: within 4σ of the
    # interval [2.7, 6] and within [1.75, 2.05].
    ratio, spread = rough / fine, rough / fine * math.hypot(rough_error / rough, fine_error / fine)
    assert rough > 5 * rough_error, "the bias is seen at all"
    assert ratio + 4 * spread > 2.7, (ratio, spread)
    assert ratio - 4 * spread < 6, (ratio, spread)
    assert 1.75 < plug_rough / plug_fine < 2.05
    assert plug_fine > 50 * plug_error, "the plug-in is biased, and that is detected"
    assert fine < plug_fine / 8


@pytest.mark.slow
@pytest.mark.parametrize("replicates", [2, 4, 16])
def test_squared_error_has_no_bias_at_any_number_of_replicates(replicates: int, make_network) -> None:
    (bias, error), (plug, plug_error) = biases(make_network(vectors=True, gain=1.5), "mse", replicates)
    assert abs(bias) < 4 * error
    assert plug > 20 * plug_error, "negative control: the plug-in is detected"
