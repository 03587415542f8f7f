"""Two learning curves: planted crossings are found and covered, and "no crossing" is said."""

import numpy as np
import pytest

from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling import Gap, gap, joined, table_of
from equiv_probe.scaling.gap_result import reached

STEPS = np.geomspace(10, 1e4, 16)
CROSSING = 3 ** (1 / 0.3)
"""Of ``t^-0.5`` and ``3 t^-0.8``: 38.9; both are straight in logarithms, so that interpolation is exact."""


def runs(law, seeds: int, noise: float, generator: np.random.Generator, **more):
    """Curves with a factor of each seed's own, constant along the run, and a slope of its own."""
    tables = []
    for seed in range(seeds):
        apart, tilt = noise * generator.standard_normal(2)
        own = law(STEPS) * np.exp(apart + tilt * np.log(STEPS / 300) / 3.4)
        tables.append({"step": STEPS, "seconds": more.get("seconds", 1.0) * STEPS, "L_total": own, "seed": [seed] * 16})
    return joined([table_of(one) for one in tables])


def slow(t):
    return t**-0.5


def fast(t):
    return 3 * t**-0.8


def test_the_planted_crossing_is_found():
    generator = np.random.default_rng(0)
    found = gap(runs(slow, 1, 0, generator), runs(fast, 1, 0, generator), "step", names=("slow", "fast"))
    assert len(found.crossings) == 1
    assert found.crossings[0].x.value == pytest.approx(CROSSING, rel=1e-9)
    assert found.crossings[0].loss == pytest.approx(CROSSING**-0.5, rel=1e-9)
    assert found.crossings[0].after == "fast"
    assert np.isnan(found.crossings[0].x.low)  # one run each has no interval
    assert any("A second seed" in note for note in found.notes)
    assert "without error bars" in found.verdict
    assert found.to_dict()["crossings"][0]["x"]["low"] is None
    assert Gap.from_dict(found.to_dict()) == found
    # fast comes to the loss l at (3/l)^(1/0.8), slow at l^-2; on the grid's knots and between them alike
    for loss, factor in zip(found.losses, found.factor, strict=True):
        assert factor.value == pytest.approx((3 / loss) ** (1 / 0.8) * loss**2, rel=1e-9)


def test_a_faster_clock_moves_the_crossing():
    """Twice the seconds per step for the model that is better by step: t^-0.5 against 3 (t/2)^-0.8."""
    generator = np.random.default_rng(0)
    a, b = runs(slow, 1, 0, generator), runs(fast, 1, 0, generator, seconds=2.0)
    by_step, by_time = gap(a, b, "step"), gap(a, b, "seconds")
    assert by_step.crossings[0].x.value == pytest.approx(CROSSING, rel=1e-9)
    assert by_time.crossings[0].x.value == pytest.approx((3 * 2**0.8) ** (1 / 0.3), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 4])
def test_the_interval_of_the_crossing_covers(seeds):
    """120 repetitions, 114 ± 2.4: three standard errors below are 107; two seeds of either model cover more."""
    generator = np.random.default_rng(seeds)
    covered = narrow = 0
    for repetition in range(120):
        a, b = runs(slow, seeds, 0.15, generator), runs(fast, seeds, 0.15, generator)
        found = gap(a, b, "step", smooth="none", resamples=300, seed=repetition)
        # Where no stretch is known to differ there is no crossing to report: everything is possible, which covers.
        covered += all(CROSSING in one.x for one in found.crossings)
        low, high = np.log(found.ratio_low), np.log(found.ratio_high)
        middle = np.interp(np.log(CROSSING), np.log(found.at), (low + high) / 2)
        half = np.interp(np.log(CROSSING), np.log(found.at), (high - low) / 2)
        narrow += abs(middle) < half * {2: 1.96 / 12.7, 4: 1.96 / 3.18}[seeds] * np.sqrt((seeds - 1) / seeds)
    assert covered >= 107
    # Negative control: normal tails without the degrees of freedom, as resampling the seeds would give.
    if seeds == 2:
        assert narrow < 95


def test_no_crossing_is_said():
    generator = np.random.default_rng(1)
    a, b = runs(slow, 4, 0.02, generator), runs(lambda t: 2 * t**-0.5, 4, 0.02, generator)
    found = gap(a, b, "step", names=("a", "b"))
    assert found.crossings == []
    assert found.verdict.startswith("a is below b over the whole range")
    assert "No crossing." in str(found)
    for factor in found.factor:
        assert 4.0 in factor  # twice the loss at t^-0.5: four times the steps


@pytest.mark.slow
def test_equal_models_do_not_differ():
    """The same law for both: no difference is found in 95 % of the repetitions; of 40, that is 38 ± 1.4."""
    quiet = 0
    for repetition in range(40):
        generator = np.random.default_rng(repetition)
        found = gap(runs(slow, 3, 0.1, generator), runs(slow, 3, 0.1, generator), "step", resamples=300)
        quiet += not found.lower.any()
    assert quiet >= 34


def test_a_crossing_beyond_what_is_known_has_no_end():
    """The curves cross at 5000 of 10000 steps, where seeds scatter far more than they differ: an open interval."""
    generator = np.random.default_rng(2)

    def late(t):
        return slow(t) * (t / 5000) ** -0.5

    found = gap(runs(slow, 3, 0.15, generator), runs(late, 3, 0.15, generator), "step", smooth="none")
    assert len(found.crossings) == 1
    assert found.crossings[0].x.high == np.inf
    assert found.crossings[0].x.low < 5000


def test_noise_within_a_run_makes_no_crossings_of_its_own():
    """Curves 1 % apart with 10 % of noise at every point cross dozens of times, and no difference is known anywhere."""
    generator = np.random.default_rng(3)
    steps = np.geomspace(10, 1e4, 60)

    def noisy(factor):
        losses = factor * slow(steps) * np.exp(0.1 * generator.standard_normal((4, 60)))
        return joined([table_of({"step": steps, "L_total": one}) for one in losses], seed=range(4))

    a, b = noisy(1.0), noisy(1.01)
    bare = gap(a.where(seed=0), b.where(seed=0), "step", smooth="none")
    assert len(bare.crossings) > 10
    assert gap(a, b, "step", smooth="none").crossings == []


def test_held_out_structures_are_drawn_for_both_models_at_once():
    """Hard and easy structures differ tenfold; paired, models 10 % apart are known to differ, unpaired they are not."""
    generator = np.random.default_rng(4)
    hardness = np.exp(generator.standard_normal(40))

    def measured(factor, names):
        rows = [(t, n, factor * h * t**-0.5) for t in STEPS for n, h in zip(names, hardness, strict=True)]
        return {"step": [r[0] for r in rows], "structure": [r[1] for r in rows], "L_total": [r[2] for r in rows]}

    names = [f"m{i}" for i in range(40)]
    a, b = measured(1.0, names), measured(1.1, names)
    paired = gap(a, b, "step", names=("a", "b"))
    assert paired.verdict.startswith("a is below b over the whole range")
    np.testing.assert_allclose(paired.ratio_low, 1.1, rtol=1e-9)  # the same factor on every structure: no scatter
    other = gap(a, measured(1.1, [f"o{i}" for i in range(40)]), "step")
    assert "do not differ measurably" in other.verdict
    assert any("says nothing of other seeds" in note for note in other.notes)
    # Independent of each other: the variance of a mean of 40 log-normal factors, on either side.
    width = np.log(other.ratio_high / other.ratio_low).mean()
    expected = 2 * 1.96 * np.sqrt(2 / 40) * hardness.std() / hardness.mean()
    assert width == pytest.approx(expected, rel=0.15)


def test_one_run_takes_the_errors_of_its_held_out_loss():
    base = {"step": STEPS, "L_total": slow(STEPS), "L_total_stderr": 0.05 * slow(STEPS)}
    other = {**base, "L_total": 1.3 * slow(STEPS), "L_total_stderr": 0.05 * 1.3 * slow(STEPS)}
    found = gap(base, other, "step", resamples=4000)
    expected = 1.3 * np.exp(np.array([-1.96, 1.96]) * 0.05 * np.sqrt(2))
    assert found.ratio_low.mean() == pytest.approx(expected[0], rel=0.01)
    assert found.ratio_high.mean() == pytest.approx(expected[1], rel=0.01)


def test_when_a_level_is_reached():
    grid = np.array([0.0, 1.0, 2.0])
    curves = np.array([[4.0, 2.0, 2.0], [4.0, 4.0, 3.0]])
    np.testing.assert_allclose(reached(grid, curves, np.array([3.0, 2.0])), [[0.5, 1.0], [2.0, np.inf]])


def test_curves_that_cross_twice_cross_twice():
    """``t^-0.5`` and that times ``exp(sin(2π log(t/10)/log 1000 + 0.4)/2)``: at phases π and 2π."""
    generator = np.random.default_rng(5)

    def wave(t):
        return slow(t) * np.exp(np.sin(2 * np.pi * np.log(t / 10) / np.log(1000) + 0.4) / 2)

    found = gap(runs(slow, 3, 0.01, generator), runs(wave, 3, 0.01, generator), "step", names=("a", "b"), smooth="none")
    assert [one.after for one in found.crossings] == ["b", "a"]
    for crossing, phase in zip(found.crossings, (np.pi, 2 * np.pi), strict=True):
        true = 10 * np.exp((phase - 0.4) / (2 * np.pi) * np.log(1000))
        assert true in crossing.x
        assert crossing.x.value == pytest.approx(true, rel=0.05)


def test_a_run_that_ends_early_or_loses_its_loss_is_said():
    """All runs are compared where all have values; one of six that diverges must not shorten that in silence."""
    generator = np.random.default_rng(6)
    a, b = runs(slow, 3, 0.01, generator), runs(fast, 3, 0.01, generator)
    assert not any("Compared up to" in note for note in gap(a, b, "step").notes)
    a.columns["L_total"][(a.numbers("seed") == 1) & (a.numbers("step") > 300)] = np.nan
    found = gap(a, b, "step", names=("a", "b"))
    assert found.at[-1] < 300
    assert any("where 1 of 3 runs of a end" in note for note in found.notes)


def test_losses_that_neither_comes_to_have_no_ratio():
    generator = np.random.default_rng(7)
    found = gap(runs(slow, 3, 0.01, generator), runs(fast, 3, 0.01, generator), "step", losses=[1e-9, 0.05])
    assert np.isnan(found.factor[0].value)
    assert found.needed[0][0] == found.needed[1][0] == np.inf
    assert found.factor[1].value == pytest.approx((3 / 0.05) ** 1.25 * 0.05**2, rel=0.1)


@pytest.mark.parametrize("how", [{"resamples": 0}, {"level": 95}, {"names": ("A", "A")}, {"losses": [-1.0]}])
def test_options_out_of_range_are_refused(how):
    a = {"step": STEPS, "L_total": slow(STEPS)}
    with pytest.raises(EquivProbeError, match=f"{next(iter(how))}="):
        gap(a, a, "step", **how)


def test_errors_teach():
    a = {"step": STEPS, "L_total": slow(STEPS)}
    with pytest.raises(EquivProbeError, match="range that all runs have"):
        gap(a, {"step": 1e6 * STEPS, "L_total": slow(STEPS)}, "step")
    twice = {"step": [*STEPS, *STEPS], "L_total": [*slow(STEPS), *slow(STEPS)]}
    with pytest.raises(EquivProbeError, match='"seed" that distinguishes runs'):
        gap(a, twice, "step")
    with pytest.raises(EquivProbeError, match="seconds or device_seconds"):
        gap(a, a)
