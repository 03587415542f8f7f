"""Rotations drawn without replacement from the cube's: the finite-population jackknife, over all subsets and many."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from scipy.stats import t as student
from torch import Tensor

import equiv_probe as ep
from equiv_probe.estimation.jackknife import Jackknife, jackknife
from equiv_probe.rotations.drawing import draw

POPULATION = 6
GENERATOR = torch.Generator().manual_seed(0)
H = torch.randn(POPULATION, 4, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(4, generator=GENERATOR, dtype=torch.float64)


def squared(prediction: Tensor) -> Tensor:
    return (prediction - Y).square().mean(-1)


def log_cosh(prediction: Tensor) -> Tensor:
    return torch.log(torch.cosh(prediction - Y)).mean(-1)


def estimate(h: Tensor, loss, population: int | None) -> Jackknife:
    """Jackknife of ``(*batch, k, 4)`` values over k, one estimate for each of the batch."""
    h = h.movedim(-2, 0)
    mean = h.mean(0)
    left_out = (h.sum(0) - h) / (len(h) - 1)
    return jackknife(loss(h), loss(mean), loss(left_out), None, population)


def all_subsets(k: int) -> Tensor:
    return torch.stack([H[list(chosen)] for chosen in combinations(range(POPULATION), k)])


@pytest.mark.parametrize("k", range(2, POPULATION + 1))
def test_averaged_over_all_subsets_the_estimates_are_those_of_the_whole_group(k: int) -> None:
    found = estimate(all_subsets(k), squared, POPULATION)
    total, mean = squared(H).mean(), squared(H.mean(0))
    assert torch.allclose(found.total.mean(), total, atol=1e-14)
    assert torch.allclose(found.mean.mean(), mean, atol=1e-14)
    assert torch.allclose(found.equiv.mean(), total - mean, atol=1e-14)
    # Controls: as if the draws were independent, and the plug-in, are biased, except where nothing is left to chance.
    independent = estimate(all_subsets(k), squared, None).mean.mean()
    plug_in = squared(all_subsets(k).mean(1)).mean()
    assert abs(float(independent - mean)) > 0.05
    assert (abs(float(plug_in - mean)) > 0.02) == (k < POPULATION)


@pytest.mark.parametrize("k", range(2, POPULATION + 1))
def test_the_variance_is_that_of_a_finite_population(k: int) -> None:
    """For a mean, such as ``L_total``, the squared error bar averages to the variance over all subsets, exactly."""
    found = estimate(all_subsets(k), squared, POPULATION)
    claimed = found.stderr(found.pseudo_total).square().mean()
    assert torch.allclose(claimed, found.total.var(correction=0), atol=1e-14)
    assert torch.allclose(found.pseudo_mean.mean(0), found.mean, atol=1e-13)
    assert torch.allclose(found.pseudo_total.mean(0), found.total, atol=1e-13)


def test_other_convex_losses_are_biased_to_second_order_only() -> None:
    mean = float(log_cosh(H.mean(0)))

    def bias(k: int) -> tuple[float, float]:
        plug_in = log_cosh(all_subsets(k).mean(1)).mean()
        return abs(float(estimate(all_subsets(k), log_cosh, POPULATION).mean.mean()) - mean), abs(float(plug_in) - mean)

    for k in (3, 4, 5):
        ours, plug_in = bias(k)
        assert ours < plug_in / 5
    assert bias(POPULATION)[0] < 1e-15


@pytest.mark.parametrize("k", [4, 8, 16])
def test_intervals_cover(k: int) -> None:
    """95 % intervals from subsets of 24 values of one structure; 2000 repetitions: ± 0.5 % is one standard error."""
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(24, 40, generator=generator, dtype=torch.float64)
    target = 0.5 * torch.randn(40, generator=generator, dtype=torch.float64)
    loss = lambda p: (p - target).square().mean(-1)  # noqa: E731
    keys = torch.rand(2000, 24, generator=generator).argsort(1)[:, :k]
    found = estimate(h[keys], loss, 24)
    truth = {"total": loss(h).mean(), "mean": loss(h.mean(0))}
    width = student.ppf(0.975, k - 1)
    for name, pseudo in (("total", found.pseudo_total), ("mean", found.pseudo_mean)):
        covered = ((getattr(found, name) - truth[name]).abs() < width * spread(pseudo)).double().mean()
        assert 0.925 < float(covered) < 0.985, (name, float(covered))
        naive = spread(pseudo) / math.sqrt(1 - k / 24)
        if k == 16:  # control: without the finite-population factor they cover too much
            assert float(((getattr(found, name) - truth[name]).abs() < width * naive).double().mean()) > 0.99


def spread(pseudo: Tensor) -> Tensor:
    """Standard error for each repetition."""
    return pseudo.std(0) / math.sqrt(len(pseudo))


def test_subsets_are_drawn_without_replacement_and_evenly() -> None:
    plan, generator = ep.RotationPlan("cube", subset=3), torch.Generator().manual_seed(0)
    assert (plan.R, plan.n, plan.size, plan.population) == (3, 1, 3, 24)
    g = draw(plan, generator, 4000)
    assert g.shape == (3, 1, 4000, 3, 3)
    elements = ep.RotationPlan("cube").rotations()[0].flatten(1)
    number = torch.cdist(g[:, 0].flatten(2), elements[None].expand(3, -1, -1)).argmin(-1)  # (3, 4000)
    assert bool((number[0] != number[1]).all() & (number[1] != number[2]).all() & (number[0] != number[2]).all())
    counts = torch.bincount(number.flatten(), minlength=24).double()
    # 12000 draws over 24: 500 each, standard deviation below 22.
    assert float((counts - 500).abs().max()) < 5 * 22
    every = ep.RotationPlan("box", improper=True, subset=8).rotations(generator)[:, 0]
    assert len(torch.unique(every.flatten(1), dim=0)) == 8
    assert torch.equal(ep.RotationPlan("cube", subset=5).rotations(), ep.RotationPlan("cube", subset=5).rotations())


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [False, True])
def test_subset_orbits_estimate_the_whole_group(labelled: bool) -> None:
    """Through ``twirl`` and ``decompose``: the mean over many draws is the full plan's, within its own scatter."""
    weight = torch.randn(3, 2, 3, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64) if labelled else None
    schema = ep.Schema({"x": ep.grid()}, {"y": ep.grid()})

    def predict(inputs):
        return {"y": torch.nn.functional.conv3d(inputs["x"][None], weight, padding=1)[0]}

    whole = ep.decompose(ep.twirl(predict, {"x": x}, schema), y)
    plan, generator = ep.RotationPlan("cube", subset=4), torch.Generator().manual_seed(5)
    draws = [
        ep.decompose(ep.twirl(predict, {"x": x}, schema, plan, generator=generator, floor=0), y) for _ in range(150)
    ]
    for key in ("equiv", "total", "mean") if labelled else ("equiv",):
        each = torch.tensor([getattr(one, key) for one in draws])
        error = float(each.std()) / math.sqrt(len(each))
        assert abs(float(each.mean()) - getattr(whole, key)) < 4 * error
        claimed = torch.tensor([getattr(one, f"{key}_stderr") for one in draws]).square().mean().sqrt()
        assert 0.7 < float(claimed / each.std()) < 1.4
    assert ep.decompose(ep.twirl(predict, {"x": x}, schema, ep.RotationPlan("cube", subset=24)), y).equiv_stderr < 1e-9


def test_replays_know_the_population() -> None:
    torch.manual_seed(0)
    net = torch.nn.Conv3d(1, 1, 3, padding=1).double().eval()
    x, y = torch.randn(2, 2, 1, 4, 4, 4, dtype=torch.float64)
    schema = ep.Schema({"input": ep.grid()}, {"0": ep.grid()})
    probe = ep.Probe(net, schema)

    def step() -> Tensor:
        return (net(x) - y).square().mean()

    whole = probe.replay(step)
    every = probe.replay(step, ep.RotationPlan("cube", subset=24), per_structure=False)
    assert math.isclose(whole.equiv, every.equiv, rel_tol=1e-10)
    assert whole.equiv > 1e-3
    assert every.equiv_stderr < 1e-12 < probe.replay(step, ep.RotationPlan("cube", subset=12)).equiv_stderr
