"""Ratios of sums: their standard errors, their intervals, and merging."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from equiv_probe.estimation.estimates import EQUIV, MEAN, TOTAL, WEIGHT, Estimate, Sums


def structures(count: int, repetitions: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Skewed, correlated ``L_equiv``, ``L_total`` and weights, ``(repetitions, count)``."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, repetitions, count, generator=generator, dtype=torch.float64)
    equiv = torch.exp(0.5 * noise[0])
    return equiv, equiv + torch.exp(0.5 * noise[1]), torch.exp(0.3 * (noise[2] + noise[0]))


def test_ratios_are_the_explicit_ones() -> None:
    equiv, total, weight = (values[0] for values in structures(20))
    sums = Sums.of(equiv, total, weight)
    w = weight / weight.sum()
    assert abs(sums.equiv.value - float(equiv @ w)) < 1e-14
    assert abs(sums.total.value - float(total @ w)) < 1e-14
    assert abs(sums.mean.value - float((total - equiv) @ w)) < 1e-14
    assert abs(sums.share.value - float((equiv @ w) / (total @ w))) < 1e-14
    # Equal weights make it a plain mean, and its textbook standard error.
    plain = Sums.of(equiv, total, torch.ones_like(equiv)).equiv
    assert abs(plain.stderr - float(equiv.std()) / math.sqrt(20)) < 1e-12
    reach = float(stats.t.ppf(0.975, 19)) * plain.stderr / plain.value
    assert abs(plain.low - plain.value * math.exp(-reach)) < 1e-12
    assert abs(plain.high - plain.value * math.exp(reach)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("numerator", [EQUIV, MEAN, TOTAL], ids=["equiv", "mean", "total"])
@pytest.mark.parametrize("denominator", [WEIGHT, TOTAL], ids=["per weight", "share"])
def test_delta_method_agrees_with_simulation_and_bootstrap(numerator: tuple, denominator: tuple) -> None:
    if numerator == denominator:
        return  # one, always
    # 3000 samples of 60 structures: the scatter of the ratio is the standard error to 1.3 %, and the delta method is
    # low by O(1/60) for skewed weights.
    every = structures(60, 3000)
    found = [Sums.of(*(values[k] for values in every)).ratio(numerator, denominator) for k in range(3000)]
    scatter = float(torch.tensor([value for value, _ in found]).std())
    stated = math.sqrt(sum(error**2 for _, error in found) / 3000)
    assert abs(stated / scatter - 1) < 0.08, (stated, scatter)
    # The bootstrap of one sample, 4000 draws (1 %), is the delta method's own value up to O(1/60).
    equiv, total, weight = (values[0] for values in every)
    pick = torch.randint(60, (4000, 60), generator=torch.Generator().manual_seed(1))
    x = torch.stack([equiv * weight, total * weight, weight], -1)[pick].sum(1)
    draws = (x @ x.new_tensor(numerator)) / (x @ x.new_tensor(denominator))
    assert abs(found[0][1] / float(draws.std()) - 1) < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equiv", "share"])
def test_intervals_over_structures_cover(kind: str) -> None:
    every = structures(100, 4000, seed=2)
    bulk = Sums.of(*(values.flatten() for values in structures(40, 50_000, seed=3)))
    truth = getattr(bulk, kind).value
    hits = 0
    for k in range(4000):
        estimate = getattr(Sums.of(*(values[k] for values in every)), kind)
        hits += estimate.low <= truth <= estimate.high
    # A standard error of 0.4 %. Weights that grow with what they weigh are the delta method's hard case: L_equiv covers
    # 89, 90 and 92 % with 20, 40 and 100 structures, the share 91, 93 and 95 %; with independent weights 94 to 95 %.
    assert 0.915 <= hits / 4000 <= 0.96, hits / 4000


def test_merging_is_one_pass_in_any_order() -> None:
    equiv, total, weight = (values[0] for values in structures(30))
    whole = Sums.of(equiv, total, weight)
    parts = [Sums.of(equiv[i], total[i], weight[i]) for i in (slice(0, 1), slice(1, 11), slice(11, 30), slice(30, 30))]
    for order in ((0, 1, 2, 3), (3, 2, 1, 0)):
        merged = parts[order[0]]
        for k in order[1:]:
            merged = merged + parts[k]
        for kind in ("equiv", "total", "mean", "share"):
            for key in ("value", "stderr", "low", "high"):
                # Sums in another order: rounding, in the standard error amplified by the cancellation in its residuals.
                assert abs(getattr(getattr(merged, kind), key) / getattr(getattr(whole, kind), key) - 1) < 1e-11


def test_structures_of_weight_zero_do_not_count() -> None:
    equiv, total, weight = (values[0] for values in structures(10))
    more = [
        torch.cat([values, values.new_tensor([fill])])
        for values, fill in ((equiv, math.nan), (total, 1.0), (weight, 0.0))
    ]
    assert Sums.of(*more).equiv == Sums.of(equiv, total, weight).equiv


def test_missing_totals_leave_the_rest() -> None:
    equiv, total, weight = (values[0] for values in structures(10))
    sums = Sums.of(equiv, torch.full_like(total, math.nan), weight)
    assert sums.equiv == Sums.of(equiv, total, weight).equiv
    assert math.isnan(sums.total.value)
    assert math.isnan(sums.share.value)


def test_too_little_to_say() -> None:
    one = Sums.of(torch.ones(1), torch.ones(1), torch.ones(1)).equiv
    assert one.value == 1.0
    assert math.isnan(one.stderr)
    assert math.isnan(one.low)
    none = Sums.of(torch.ones(0), torch.ones(0), torch.ones(0)).equiv
    assert math.isnan(none.value)


@pytest.mark.parametrize(
    ("value", "scale", "low", "high"),
    [
        (10.0, "linear", 10 - 2 * 2.2281388519649385, 10 + 2 * 2.2281388519649385),
        (10.0, "log", 10 * math.exp(-0.44562777), 10 * math.exp(0.44562777)),
        (-1.0, "log", -1 - 2 * 2.2281388519649385, -1 + 2 * 2.2281388519649385),  # outside its domain: linear
        (1.5, "logit", 1.5 - 2 * 2.2281388519649385, 1.5 + 2 * 2.2281388519649385),
    ],
)
def test_interval_on_each_scale(value: float, scale: str, low: float, high: float) -> None:
    found = Estimate.with_interval(value, 2.0, 10, scale)  # type: ignore[arg-type]
    assert abs(found.low - low) < 1e-7
    assert abs(found.high - high) < 1e-7


def test_logit_interval_stays_inside_and_extremes_do_not_overflow() -> None:
    wide = Estimate.with_interval(0.999, 0.5, 3, "logit")
    assert 0 <= wide.low < 0.999 < wide.high <= 1
    assert Estimate.with_interval(1e-300, 1.0, 3, "log").high > 1e-300
    assert math.isnan(Estimate.with_interval(1.0, 1.0, 0.5).low)
    assert math.isnan(Estimate.with_interval(1.0, math.nan, 5).low)
    tight = Estimate.with_interval(0.25, 1e-4, 50, "logit")
    reach = float(stats.t.ppf(0.975, 50)) * 1e-4  # far from the ends, the logit scale is the linear one
    assert abs(tight.low - (0.25 - reach)) < 1e-6
    assert abs(tight.high - (0.25 + reach)) < 1e-6


@pytest.mark.parametrize("labels", [True, False])
def test_estimates_on_the_device_are_those_on_the_host(labels: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    equiv, total, weight = torch.rand(3, 7, generator=generator, dtype=torch.float64)
    sums = Sums.of(equiv, total if labels else torch.full_like(total, torch.nan), weight)
    found = sums.tensors()
    for name, estimate in {
        "L_total": sums.total,
        "L_mean": sums.mean,
        "L_equiv": sums.equiv,
        "share": sums.share,
    }.items():
        expected = [estimate.value, estimate.stderr]
        got = [float(found[name]), float(found[f"{name}_stderr"])]
        if labels or name == "L_equiv":
            assert got == pytest.approx(expected, rel=1e-12)
        else:
            assert all(math.isnan(value) for value in got)
    assert torch.equal(Sums.from_flat(sums.flat()).second.nan_to_num(), sums.second.nan_to_num())
    assert math.isnan(Sums.of(equiv[:1], total[:1], weight[:1]).tensors()["L_equiv_stderr"])
