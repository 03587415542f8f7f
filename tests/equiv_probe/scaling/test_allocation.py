"""The best use of compute and of data, against closed forms and against other minimisers."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling import Cost, allocate, data_efficiency, fit, measured_cost, table_of

N, D = np.repeat([1e3, 1e4, 1e5, 1e6], 4), np.tile([1e2, 1e3, 1e4, 1e5], 4)
E, A, ALPHA, B, BETA = 0.01, 3.0, 0.34, 5.0, 0.28


def runs(noise=0.0, seed=0):
    law = E + A * N**-ALPHA + B * D**-BETA
    return {"N": N, "D": D, "L_total": law * np.exp(noise * np.random.default_rng(seed).standard_normal(16))}


def lowest(k, p, q, budget):
    """The best N by scanning the loss along the line of one cost."""

    def loss(u):
        return A * np.exp(-ALPHA * u) + B * (budget / k * np.exp(-p * u)) ** (-BETA / q)

    return np.exp(minimize_scalar(loss, bounds=(0, 40), method="bounded", options={"xatol": 1e-10}).x)


@pytest.mark.parametrize("cost", [Cost(6), Cost(2e-9, 0.7, 1.1)])
@pytest.mark.parametrize("budget", [1e8, 1e12])
def test_the_closed_form_is_the_minimum(cost, budget):
    """To 1e-4: a minimum's place is known to the root of its value's precision."""
    found = allocate(fit(runs(), resamples=0), budget, cost)
    n, d = found.n[0].value, found.d[0].value
    assert n == pytest.approx(lowest(cost.k, cost.p, cost.q, budget), rel=1e-4)
    assert cost(n, d) == pytest.approx(budget, rel=1e-9)
    assert found.loss[0].value == pytest.approx(E + A * n**-ALPHA + B * d**-BETA, rel=1e-5)


def test_hoffmann_s_formula():
    """Equation 4 of arXiv:2203.15556: N = G (C/6)^a, D = (C/6)^b / G, with a = beta / (alpha + beta)."""
    found = allocate(fit(runs(), resamples=0), 1e10, 6)
    g = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    assert found.n[0].value == pytest.approx(g * (1e10 / 6) ** (BETA / (ALPHA + BETA)), rel=1e-4)
    assert found.d[0].value == pytest.approx((1e10 / 6) ** (ALPHA / (ALPHA + BETA)) / g, rel=1e-4)
    assert found.n_exponent.value == pytest.approx(BETA / (ALPHA + BETA), rel=1e-5)
    assert found.n_exponent.value + found.d_exponent.value == pytest.approx(1, rel=1e-12)


def test_a_cost_function_gives_what_the_closed_form_gives():
    law = fit(runs(0.02), resamples=30)
    stated = allocate(law, [1e8, 1e10], Cost(6, 0.8, 1.0))
    numerical = allocate(law, [1e8, 1e10], lambda n, d: 6 * n**0.8 * d)
    for a, b in zip([*stated.n, *stated.d], [*numerical.n, *numerical.d], strict=True):
        assert b.value == pytest.approx(a.value, rel=1e-4)
        assert b.low == pytest.approx(a.low, rel=1e-4)
        assert b.high == pytest.approx(a.high, rel=1e-4)


def test_a_cost_that_is_no_power_law():
    """An overhead of 1000 parameters' worth per structure: at the optimum the slopes per cost are equal."""
    found = allocate(fit(runs(), resamples=0), 1e9, lambda n, d: 6 * (n + 1000) * d)
    n, d = found.n[0].value, found.d[0].value
    assert 6 * (n + 1000) * d == pytest.approx(1e9, rel=1e-6)
    by_n = ALPHA * A * n ** (-ALPHA - 1) / (6 * d)
    by_d = BETA * B * d ** (-BETA - 1) / (6 * (n + 1000))
    assert by_n == pytest.approx(by_d, rel=1e-3)
    assert np.isnan(found.n_exponent.value)


def test_measured_seconds():
    seconds = 1e-7 * N**0.6 * D * np.exp(0.05 * np.random.default_rng(0).standard_normal(16))
    found = measured_cost({**runs(), "seconds": seconds})
    # Four sizes three decades apart: the slope's standard error is 0.05 / (√16 · 2.57).
    assert found.p == pytest.approx(0.6, abs=0.02)
    assert found.q == pytest.approx(1.0, abs=0.02)
    assert found.scatter == pytest.approx(0.05, rel=0.5)
    with pytest.raises(EquivProbeError, match="do not vary apart"):
        measured_cost({"N": [1, 10, 100], "D": [2, 20, 200], "seconds": [1, 2, 3]})


@pytest.mark.slow
def test_the_exponent_s_interval_covers():
    """Of 20, 19 ± 1: four standard errors below are 15. Best sizes likewise."""
    truth = BETA / (ALPHA + BETA)
    best = lowest(6, 1, 1, 1e10)
    covered = np.zeros(2)
    for seed in range(20):
        found = allocate(fit(runs(0.02, seed), resamples=100, seed=seed), 1e10, 6)
        covered += truth in found.n_exponent, best in found.n[0]
    assert (covered >= 15).all(), covered


def test_extrapolation_is_said():
    law = fit(runs(), resamples=0)
    assert allocate(law, 1e9, 6).notes == []
    assert "1.0e20 the best sizes lie outside" in allocate(law, [1e9, 1e20], 6).notes[0]
    with pytest.raises(EquivProbeError, match="one in two variables"):
        allocate(fit({"D": [1, 2, 3, 4], "L_total": [4, 3, 2.5, 2.2]}, "D"), 1, 6)
    for budgets in ([0], [], [np.inf], [np.nan]):
        with pytest.raises(EquivProbeError, match="positive numbers"):
            allocate(law, budgets, 6)


@pytest.mark.parametrize("cost", [0, -6.0, Cost(1, 1, 0), Cost(1, 1, -0.5), Cost(np.nan), Cost(1, np.nan, 1)])
def test_a_cost_that_does_not_grow_with_both_sizes_has_no_best_ones(cost):
    with pytest.raises(EquivProbeError, match="grows with both sizes"):
        allocate(fit(runs(), resamples=0), 1e9, cost)


def test_a_cost_that_no_size_has_and_one_that_is_missing():
    with pytest.raises(EquivProbeError, match=r"that cost 1e\+09"):
        allocate(fit(runs(), resamples=0), 1e9, lambda n, d: 1e40 * n * d)
    for lost in (np.nan, 0.0):
        with pytest.raises(EquivProbeError, match="in 4 of 16 runs; expected positive numbers"):
            measured_cost({**runs(), "seconds": np.where(N > 1e5, lost, N * D)})


SIZES = np.repeat(np.geomspace(100, 1e4, 5), 3)


def two_models(noise=0.0, seed=0, factor=9.0, floor=0.0):
    """The second needs ``factor`` times less data: ``L(D) = floor + 4 (D or factor D)^-0.5``."""
    generator = np.random.default_rng(seed)
    scatter = np.exp(noise * generator.standard_normal((2, 15)))
    laws = floor + 4 * np.stack([SIZES, factor * SIZES]) ** -0.5
    return {"model": ["plain"] * 15 + ["egnn"] * 15, "D": [*SIZES, *SIZES], "L_total": (laws * scatter).ravel()}


def test_the_planted_factor_of_data():
    for floor in (0.0, 0.05):
        found = data_efficiency(two_models(floor=floor), "plain", "egnn")
        for one in found.factor:
            assert one.value == pytest.approx(9, rel=1e-3)
        for loss, needed in zip(found.losses, found.data["egnn"], strict=True):
            assert needed.value == pytest.approx((4 / (loss - floor)) ** 2 / 9, rel=1e-3)
    same = data_efficiency(two_models(0.03, factor=1.0), "plain", "egnn", floor=0.0)
    assert all(1 in one for one in same.factor)  # negative control: nothing gained, nothing found
    assert all(9 not in one for one in same.factor)


@pytest.mark.slow
def test_the_factor_s_interval_covers():
    """Of 40 at each of three losses, 38 ± 1.4: three standard errors below are 34."""
    covered = np.zeros(3)
    for seed in range(40):
        columns = two_models(0.05, seed)
        found = data_efficiency(columns, "plain", "egnn", losses=[0.1, 0.06, 0.04], floor=0.0, resamples=150, seed=seed)
        covered += [9 in one for one in found.factor]
    assert (covered >= 34).all(), covered


def test_losses_that_no_run_came_to_are_said_to_be_extrapolated():
    columns = two_models(0.02)
    beyond = data_efficiency(columns, "plain", "egnn", losses=[0.1, 1e-3], floor=0.0, resamples=20)
    assert any("At L_total = 0.00100 a model needs D outside" in note for note in beyond.notes)
    within = data_efficiency(columns, "plain", "egnn", floor=0.0, resamples=20)
    assert within.notes == []


def test_a_floor_above_the_loss_is_reached_by_no_data():
    columns = table_of(two_models(0.01))
    plain = np.asarray(columns["model"] == "plain")
    spoiled = {**columns.columns, "L_total": columns["L_total"] + 0.2 * plain}
    found = data_efficiency(spoiled, "plain", "egnn", losses=[0.1])
    assert found.factor[0].value == found.factor[0].low == np.inf
    assert any("no amount of data" in note for note in found.notes)
    assert "∞" in str(found)
    with pytest.raises(EquivProbeError, match="losses that both came to"):
        data_efficiency({**columns.columns, "L_total": columns["L_total"] + 2 * plain}, "plain", "egnn")
    with pytest.raises(EquivProbeError, match="model = plain, egnn; expected painn"):
        data_efficiency(columns, "plain", "painn")


def test_a_model_with_too_few_runs_has_no_interval_and_takes_none_from_the_other():
    columns = two_models(0.02)
    kept = [0, 3, 6, *range(15, 30)]
    found = data_efficiency({name: np.array(values)[kept] for name, values in columns.items()}, "plain", "egnn")
    assert np.isfinite(found.data["egnn"][0].low)
    assert np.isnan(found.data["plain"][0].low)
    assert np.isnan(found.factor[0].low)
