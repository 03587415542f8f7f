"""Power laws: planted exponents come back; what cannot be known is said."""

import itertools

import numpy as np
import pytest
from scipy.optimize import least_squares, minimize

from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling import fit, table_of
from equiv_probe.scaling.estimates import interval_of
from equiv_probe.scaling.power_law import bounds_of, optimum
from equiv_probe.scaling.resampling import of_residuals, of_runs
from equiv_probe.scaling.solver import huber, predicted, solve

from .planted_laws import JOINT, SIZES, TRUTH, D, N, joint, losses


def test_exact_losses_give_the_planted_law():
    """To 1e-5: the optimiser ends where the loss is at round-off."""
    found = fit({"D": SIZES, "L_total": losses()}, "D")
    for name, value in TRUTH.items():
        assert found[name].value == pytest.approx(value, rel=1e-5)
    found = fit(joint(), ("N", "D"))
    for name, value in JOINT.items():
        assert found[name].value == pytest.approx(value, rel=1e-5)
    assert found.at(1e9, 1e9) == pytest.approx(0.05 + 3 * 1e9**-0.4 + 2 * 1e9**-0.5, rel=1e-4)


def test_units_of_loss_and_sizes_do_not_matter():
    plain = fit({"D": SIZES, "L_total": losses(0.03)}, "D", resamples=50)
    scaled = fit({"D": 1e6 * SIZES, "L_total": 1e-9 * losses(0.03)}, "D", resamples=50)
    assert scaled["alpha"].value == pytest.approx(plain["alpha"].value, rel=1e-6)
    assert scaled["E"].value == pytest.approx(1e-9 * plain["E"].value, rel=1e-6)
    assert scaled["A"].value == pytest.approx(1e-9 * plain["A"].value * 1e6 ** plain["alpha"].value, rel=1e-5)
    assert scaled["alpha"].low == pytest.approx(plain["alpha"].low, rel=1e-4)


def test_an_outlier_does_not_move_the_fit():
    """A diverged run, with a hundredfold loss, moves the exponent by less than its interval; least squares by more."""
    sizes = np.repeat(SIZES, 3)
    clean = losses(0.02, 1, sizes)
    spoiled = clean.copy()
    spoiled[19] *= 100
    plain, robust = (fit({"D": sizes, "L_total": y}, "D") for y in (clean, spoiled))
    squares = fit({"D": sizes, "L_total": spoiled}, "D", delta=1e3, resamples=0)
    length = plain["alpha"].high - plain["alpha"].low
    assert abs(robust["alpha"].value - plain["alpha"].value) < 0.3 * length
    assert abs(squares["alpha"].value - plain["alpha"].value) > length
    assert TRUTH["alpha"] in robust["alpha"]


def test_a_scatter_that_depends_on_size_is_noted():
    """Small data sets scatter 30 times as much as large ones: said; even scatter: not said, but for chance of 1 %."""
    sizes = np.repeat(SIZES, 3)
    exact = losses(0, 0, sizes)
    noise = np.random.default_rng(0).standard_normal(24)
    uneven = fit({"D": sizes, "L_total": exact * np.exp(np.geomspace(0.1, 0.003, 24) * noise)}, "D", resamples=20)
    even = fit({"D": sizes, "L_total": exact * np.exp(0.03 * noise)}, "D", resamples=20)
    assert any("scatter depends on D" in note for note in uneven.notes)
    assert not any("scatter depends on D" in note for note in even.notes)


def test_the_batched_solver_finds_what_scipy_finds():
    """On resamples, against L-BFGS-B from every start of the grid: the same loss to 1e-6 of it, or lower."""
    z, log_y = np.log(SIZES)[:, None], np.log(losses(0.05, 3))
    z = z - z.mean(0)
    best = optimum(z, log_y, None, None)
    samples = of_residuals(log_y - best.residuals, best.residuals, 3, groups=None, resamples=12, seed=0)
    bounds = bounds_of(1, None)
    theta, loss, converged = solve(z, samples.log_y, samples.weights, best.theta[None], bounds=bounds, delta=best.delta)
    assert converged.all()
    for row in range(12):

        def objective(one, row=row):
            return huber(np.log(predicted(one, z)) - samples.log_y[row], best.delta).sum()

        limits = list(zip(bounds[0] + [1e-9, 0, 0], [None, None, bounds[1][2]], strict=True))
        starts = [best.theta, theta[row] * [1, 1.1, 0.9], np.array([0.1, 0.5, 0.3])]
        lowest = min(minimize(objective, s, method="L-BFGS-B", bounds=limits).fun for s in starts)
        assert loss[row] <= lowest * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("outlier", [1.0, 30.0])
def test_the_fit_is_the_least_that_scipy_finds_from_a_grid(outlier):
    """Against ``least_squares(loss="huber")`` from 27 starts: the same loss to 1e-6 of it, and the same exponents."""
    columns = joint(0.05, 4)
    z = np.log(np.column_stack([N, D]))
    z = z - z.mean(0)
    log_y = np.log(columns["L_total"])
    log_y[7] += np.log(outlier)
    best = optimum(z, log_y, None, None)
    low, high = bounds_of(2, None)

    def residuals(one):
        return np.log(predicted(one, z)) - log_y

    ends = [
        least_squares(residuals, np.array(start), bounds=(low, high), loss="huber", f_scale=best.delta, x_scale="jac")
        for start in itertools.product([0.01], [0.1, 0.5, 2.0], [0.1, 0.4, 1.5], [0.1, 0.5, 2.0], [0.5])
    ]
    lowest = min(ends, key=lambda end: end.cost)
    assert huber(residuals(best.theta), best.delta).sum() <= lowest.cost / best.delta**2 * (1 + 1e-6)
    np.testing.assert_allclose(best.theta[2::2], lowest.x[2::2], rtol=1e-3)


def test_a_loss_without_a_floor_says_so():
    found = fit({"D": SIZES, "L_total": 3 * SIZES**-0.3 * (losses(0.05, 5) / losses())}, "D")
    assert found["E"].low == 0
    assert any("E is not distinguished from zero" in note for note in found.notes)
    known = fit({"D": SIZES, "L_total": 3 * SIZES**-0.3 * (losses(0.05, 5) / losses())}, "D", floor=0.0)
    assert known["E"].value == known["E"].high == 0
    assert known["alpha"].high - known["alpha"].low < found["alpha"].high - found["alpha"].low
    assert 0.3 in known["alpha"]


def test_what_the_runs_do_not_say_is_said():
    """A flat loss has no exponent: its interval is without bounds, and a note says so."""
    flat = fit({"D": SIZES, "L_total": np.exp(0.02 * np.random.default_rng(0).standard_normal(8))}, "D")
    assert flat["alpha"].low == 0 or flat["alpha"].high == np.inf
    assert any("bound alpha" in note or "not identified" in note or "means nothing" in note for note in flat.notes)
    few = fit({"D": SIZES[:3], "L_total": losses()[:3]}, "D")
    assert np.isnan(few["alpha"].low)
    assert "there is no interval" in few.notes[0]


@pytest.mark.parametrize(
    ("columns", "x", "how", "message"),
    [
        ({"D": [10, 10, 100, 100], "L_total": [4, 4, 2, 2]}, "D", {}, "2 sizes of D"),
        ({"D": [10, 10], "L_total": [4, 4]}, "D", {"floor": 0.0}, "1 size of D"),
        ({"D": [10, 100, 1000], "L_total": [4, 0, 2]}, "D", {}, "L_total = 0 in 1 of 3"),
        ({"D": [10, 100, 1000], "L_total": [4, 3, 2]}, "D", {"floor": 2.5}, "floor of 2.5"),
        ({"D": [10, 100, 1000], "L_total": [4, 3, 2]}, "N", {}, "columns D, L_total; expected N or parameters"),
        ({"D": [1, 2, 3, 4], "L_total": [4, 3, 2.5, 2.2]}, "D", {"interval": "bca"}, 'bootstrap="runs"'),
        ({"D": [1, 2, 3, 4], "L_total": [4, 3, 2.5, 2.2]}, "D", {"resamples": 5}, "0 resamples or 20"),
        ({"D": [1, 2, 3, 4], "L_total": [4, 3, 2.5, 2.2]}, "D", {"level": 95}, "level=95"),
        ({"D": [1, 2, 3, 4], "L_total": [4, 3, 2.5, 2.2]}, "D", {"delta": 0.0}, "delta=0.0"),
        ({"D": [1, 2, 3, 4], "L_total": [4, 3, 2.5, 2.2]}, (), {}, "one or two columns"),
        ({"D": [1, 2, 3, 4, 5], "L_total": [4, 3, 2.5, 2.2, 2.1]}, ("D", "D"), {}, "one or two columns"),
    ],
)
def test_errors_teach(columns, x, how, message):
    with pytest.raises(EquivProbeError, match=message.replace("(", r"\(")):
        fit(columns, x, **how)


def test_sizes_that_go_together_are_refused():
    """Data in proportion to the model, as many budgets ask for: every split of the loss fits, and none is meant."""
    generator = np.random.default_rng(0)
    y = joint(0.02)["L_total"]
    with pytest.raises(EquivProbeError, match="N and D that always go together"):
        fit({"N": N, "D": 20 * N, "L_total": y})
    near = fit({"N": N, "D": 20 * N * np.exp(0.1 * generator.standard_normal(25)), "L_total": y}, resamples=20)
    assert any("N and D go together" in note for note in near.notes)
    assert not any("go together" in note for note in fit(joint(0.02), resamples=20).notes)


def test_strata_and_groups_are_kept():
    strata, groups = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 2, 2, 3])
    drawn = of_runs(np.zeros(5), strata, groups, 500, 0).weights
    assert (drawn[:, :2].sum(1) == 2).all()
    np.testing.assert_array_equal(drawn[:, 2], drawn[:, 3])
    np.testing.assert_allclose(drawn.mean(0), 1, atol=0.15)  # 3.3 standard errors of √(1/500)
    with pytest.raises(EquivProbeError, match="different strata"):
        of_runs(np.zeros(5), strata, np.array([0, 1, 1, 2, 3]), 10, 0)


@pytest.mark.slow
def test_steps_of_one_run_are_no_independent_runs():
    """Every run's value five times: drawn together the interval is as long as with one each, apart far too short.

    In the middle of eight cases: what 8 residuals say of where the scatter is makes the length itself scatter.
    """
    lengths = []
    for seed in range(8):
        y = losses(0.05, seed)
        how = {"floor": 0.05, "resamples": 200}
        once = fit({"D": SIZES, "L_total": y}, "D", **how)
        columns = {"D": np.repeat(SIZES, 5), "L_total": np.repeat(y, 5), "run": np.repeat(np.arange(8), 5)}
        together, apart = fit(columns, "D", groups="run", **how), fit(columns, "D", **how)
        lengths.append([one["alpha"].high - one["alpha"].low for one in (once, together, apart)])
    once, together, apart = np.exp(np.mean(np.log(lengths), 0))
    assert together == pytest.approx(once, rel=0.25)
    assert apart < 0.6 * once


def test_the_frontier_of_compute():
    """Runs of four sizes, of which at each compute one is best: the law of compute goes through these."""
    size, steps = (a.ravel() for a in np.meshgrid([1e3, 1e4, 1e5, 1e6], np.geomspace(1e2, 1e6, 40)))
    table = table_of({"N": size, "C": 6 * size * steps, "L_total": 0.01 + 3 * size**-0.4 + 2 * steps**-0.4})
    best = table.frontier("C")
    cost, loss = best.numbers("C"), best.numbers("L_total")
    assert (np.diff(cost) > 0).all()
    assert (np.diff(loss) < 0).all()
    for c, value in zip(table.numbers("C"), table.numbers("L_total"), strict=True):
        assert loss[cost <= c].min() <= value
    # With equal exponents the best loss falls as C^-0.2; four sizes are a staircase about that, within 10 %.
    found = fit(best.where(C=lambda c: 1e7 < c < 1e12), "C", floor=0.01, resamples=0)
    assert found["alpha"].value == pytest.approx(0.2, rel=0.1)


def test_a_fit_without_resamples_has_no_intervals():
    found = fit({"D": SIZES, "L_total": losses(0.02)}, "D", resamples=0)
    assert np.isnan(found["alpha"].low)
    assert all(np.isnan(end).all() for end in found.band(SIZES))
    few = fit({"D": SIZES[:3], "L_total": losses()[:3]}, "D")
    assert "95 % interval" in str(few)
    assert few.to_dict()["parameters"]["alpha"]["low"] is None


def test_words_for_the_bootstrap_are_checked():
    for how in ({"bootstrap": "rows"}, {"interval": "normal"}):
        with pytest.raises(EquivProbeError, match='"residuals", "wild" or "runs"'):
            fit({"D": SIZES, "L_total": losses()}, "D", **how)


def test_the_frontier_is_what_nothing_cheaper_is_below():
    """At a cost that several have it is the lowest; what has no cost or no loss is left out."""
    columns = {"C": [3.0, 1.0, 2.0, 2.0, np.nan, 0.0], "L_total": [2.2, 3.0, 2.5, 2.0, 0.1, 0.1]}
    assert table_of(columns).frontier()["L_total"].tolist() == [3.0, 2.0]


def test_an_interval_beside_an_infinity_ends_at_the_last_finite_draw():
    """The upper quartile of five draws is the second largest of them, and no interpolation with the largest."""
    assert interval_of(np.array([0.0, 1.0, 2.0, 3.0, np.inf]), 0.5) == (1.0, 3.0)
    assert interval_of(np.array([0.0, 1.0, 2.0, np.inf, np.inf]), 0.5) == (1.0, np.inf)
