"""Forecasts: planted laws are recovered with their dips and limits, and intervals hold what they say they hold."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import equiv_probe as ep
from equiv_probe.cli.main import build
from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling import Forecast, Results, figure_of, forecast
from equiv_probe.scaling.dip import dips, limits, shares
from equiv_probe.scaling.forecast import WANDER
from equiv_probe.scaling.learning_curves import learning_curves, settled_from

STEPS = 10 ** (np.arange(8, 33) / 8)  # 10 to 10,000: one place for each that forecasts average over
MEAN, EQUIV = (0.05, 40.0, 0.8), (0.004, 400.0, 1.4)


def law(theta, steps):
    floor, size, exponent = theta
    return floor + size * np.asarray(steps, dtype=float) ** -exponent


def history(mean=MEAN, equiv=EQUIV, noise=0.0, seed=0, steps=STEPS):
    scatter = np.exp(noise * np.random.default_rng(seed).standard_normal((2, len(steps))))
    return {"step": steps, "L_mean": law(mean, steps) * scatter[0], "L_equiv": law(equiv, steps) * scatter[1]}


def share(mean, equiv, step):
    return law(equiv, step) / (law(mean, step) + law(equiv, step))


def test_planted_laws_are_recovered_without_noise():
    """A floor of ``L_equiv`` alone: the slopes are equal where ``t^α_e = (α_e / α_m − 1) A_e / E_e``."""
    mean = (0.0, 40.0, 0.8)
    found = forecast(history(mean=mean), to=1e5, resamples=100)
    dip = ((1.4 / 0.8 - 1) * 400 / 0.004) ** (1 / 1.4)
    for loss, theta in (("L_mean", mean), ("L_equiv", EQUIV)):
        np.testing.assert_allclose(found.laws[loss].values, theta, rtol=1e-3, atol=1e-6)
    assert found.law_share.value == pytest.approx(share(mean, EQUIV, 1e5), rel=1e-3)
    assert found.dip_step.value == pytest.approx(dip, rel=2e-3)
    assert found.dip_share.value == pytest.approx(share(mean, EQUIV, dip), rel=1e-3)
    assert forecast(history(), resamples=20).limit.value == pytest.approx(0.004 / 0.054, rel=2e-3)


def test_dips_and_limits_agree_with_brute_force():
    """Random laws: the lowest of a million places; without a floor of ``L_equiv`` there is no minimum."""
    generator = np.random.default_rng(0)
    floors = 10 ** generator.uniform(-4, -1, (2, 40)) * (generator.random((2, 40)) < 0.7)
    mean, equiv = (
        np.column_stack([floor, 10 ** generator.uniform(-1, 2, 40), generator.uniform(0.2, 2, 40)]) for floor in floors
    )
    steps = np.geomspace(10, 1e7, 20_001)
    found, depths = dips(mean, equiv, 10.0)
    seen = 0
    for row, curve in enumerate(shares(mean, equiv, steps)):
        inner = np.flatnonzero((np.diff(curve)[:-1] < 0) & (np.diff(curve)[1:] > 0)) + 1
        if not len(inner):
            assert np.isnan(found[row])
            continue
        seen += 1
        assert found[row] == pytest.approx(steps[inner[0]], rel=2e-3)
        assert depths[row] == pytest.approx(curve[inner[0]], rel=1e-5)
    assert seen >= 5
    assert np.isnan(found[equiv[:, 0] == 0]).all()
    far = shares(mean, equiv, np.array([1e60]))[:, 0]
    np.testing.assert_allclose(far, limits(mean, equiv), atol=1e-4)


def test_there_is_no_dip_where_there_is_none():
    """Both losses with one exponent and no floors keep their share for ever; nor is a dip of the noise called one."""
    mean, equiv = (0.0, 3.0, 0.5), (0.0, 1.0, 0.5)
    assert np.isnan(dips(np.array([mean]), np.array([equiv]), 10.0)[0][0])
    assert limits(np.array([mean]), np.array([equiv]))[0] == 0.25
    found = forecast(history(mean, equiv, noise=0.02), to=1e6, resamples=50)
    assert not found.dip_step.bounded
    assert found.law_share.value == pytest.approx(0.25, rel=0.2)
    assert "lowest" not in str(found)
    assert "lowest by the laws" in str(forecast(history(noise=0.02), resamples=50))


def test_the_start_of_training_is_left_out():
    """A plateau, then a law: fitted from where it begins; of a law without a plateau nothing is left out."""
    plateau = np.where(STEPS < 100, 30.0, 0.0)
    planted = history(noise=0.02)
    kept = settled_from(STEPS, planted["L_mean"])
    assert kept == 0
    broken = np.where(plateau > 0, plateau, planted["L_mean"])
    start = settled_from(STEPS, broken)
    assert 80 <= STEPS[start] <= 140
    found = forecast({**planted, "L_mean": broken}, resamples=100)
    assert found.laws["L_mean"]["alpha"].value == pytest.approx(0.8, rel=0.15)
    assert found.laws["L_mean"].range["step"][0] == pytest.approx(STEPS[start])


def correlated(seed, count=400, rho=0.8, noise=0.05):
    """Many measurements whose errors are alike for about five of them."""
    steps = np.unique(np.geomspace(10, 1e4, count).round())
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal((2, len(steps)))
    errors = drawn[:, :1] * np.ones(len(steps))
    for place in range(1, len(steps)):
        errors[:, place] = rho * errors[:, place - 1] + np.sqrt(1 - rho**2) * drawn[:, place]
    clean = history(steps=steps)
    factors = np.exp(noise * errors)
    return {**clean, "L_mean": clean["L_mean"] * factors[0], "L_equiv": clean["L_equiv"] * factors[1]}


@pytest.mark.slow
def test_intervals_of_the_laws_cover_if_the_laws_hold():
    """Ten times the steps, 60 runs with correlated errors: 95 % are 57 ± 1.7, and 4 standard errors less are 50.

    They hold the limit and the dip as often. Negative control: the interval of half the width does not.
    """
    truth = {"law_share": share(MEAN, EQUIV, 1e5), "limit": 0.004 / 0.054}
    steps = np.geomspace(10, 1e7, 200_001)
    truth["dip_step"] = steps[share(MEAN, EQUIV, steps).argmin()]
    held, half = dict.fromkeys(truth, 0), 0
    for seed in range(60):
        found = forecast(correlated(seed), to=1e5, resamples=200, seed=seed)
        for name, value in truth.items():
            held[name] += value in getattr(found, name)
        one = found.law_share
        half += abs(truth["law_share"] - one.value) < (one.high - one.low) / 8
    assert min(held.values()) >= 50, held
    assert half < 50


@pytest.mark.slow
@pytest.mark.parametrize(("exponent", "fast"), [(0.8, True), (0.2, False)])
def test_the_interval_is_that_of_real_runs(exponent, fast):
    """A share that walks at random in log step, as far as shares of real runs go: 100 walks, 95 % are 95 ± 2.2."""
    steps = 10 ** (np.arange(8, 49) / 8)
    own, held = steps <= 1e4, 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        odds = -2 + WANDER[fast] * generator.standard_normal() * np.maximum(np.log(steps / 1e4), 0)
        mean = steps**-exponent
        table = {"step": steps[own], "L_mean": mean[own], "L_equiv": (mean * np.exp(odds))[own]}
        found = forecast(table, to=1e5, resamples=0)
        at = np.searchsorted(steps, 0.99e5)
        held += 1 / (1 + np.exp(-odds[at])) in found.share
    assert 88 <= held <= 100
    assert found.today.value == pytest.approx(1 / (1 + np.exp(2)))
    assert found.share.value == found.today.value


def test_what_cannot_be_told_is_said():
    falling = history((0.0, 40.0, 0.8), noise=0.02)
    near = forecast(falling, to=1.5e4, resamples=50)
    far = forecast(falling, to=1e6, resamples=50)
    still = forecast(history((1.0, 0.1, 0.5), noise=0.02), to=2e4, resamples=50)
    assert near.can_tell
    assert "will be near" in str(near)
    for one in (far, still):
        assert not one.can_tell
        assert "cannot be told" in str(one)
        assert one.document().headline.severity == "unknown"
    low, high = far.band([1e4, 1e6])
    assert (low[0], high[0]) == pytest.approx((far.today.low, far.today.high))
    assert (low[1], high[1]) == pytest.approx((far.share.low, far.share.high))


def test_measurements_are_averaged_and_noise_below_zero_is_left_out():
    steps = np.arange(1, 1001)
    noisy = 1 + 0.5 * np.random.default_rng(0).standard_normal(1000)
    rows, notes = learning_curves({"step": steps, "L_mean": np.full(1000, 9.0), "L_equiv": noisy})
    assert len(rows) <= 24
    assert np.abs(rows[-4:, 2] - 1).max() < 0.2
    assert not notes or "left out" in notes[0]
    signs = np.where((np.arange(len(STEPS)) % 3 == 0) & (STEPS < 1000), -1, 1)
    _, notes = learning_curves({**history(), "L_equiv": history()["L_equiv"] * signs})
    assert "6 of 25 places" in notes[0]


def test_a_share_that_is_noise_about_zero_or_ended_long_ago_is_not_todays():
    """The places that chance left above zero are no estimate; nor is the last that there was before zeros or NaN."""
    for seed in range(5):
        noise = np.abs(np.random.default_rng(seed).standard_normal(len(STEPS)))
        with pytest.raises(EquivProbeError, match="not told from zero"):
            forecast({**history(), "L_equiv": 1e-6 * np.where(np.arange(len(STEPS)) % 2, noise, -noise)})
    lost = {"negative": -1e-6, "zero": 0.0}
    for value in lost.values():
        with pytest.raises(EquivProbeError, match="4 of the last 8 places"):
            forecast({**history(), "L_equiv": np.where(STEPS > 10**3.5, value, history()["L_equiv"])})
    ended = forecast({**history(), "L_equiv": np.where(STEPS > 1000, np.nan, history()["L_equiv"])}, resamples=20)
    assert ended.step == pytest.approx(1000)
    assert ended.today.value == pytest.approx(share(MEAN, EQUIV, 1000), rel=1e-3)
    assert any("known up to step 1000 of 10000" in note for note in ended.notes)


@pytest.mark.parametrize(
    ("change", "to", "message"),
    [
        ({}, 5000, "a later step"),
        ({"L_equiv": -law(EQUIV, STEPS)}, None, "0 places"),
        ({"stage": ["train"] * 12 + ["val"] * 13}, None, "2 kinds of stage"),
        ({"step": np.repeat(STEPS[:13], 2)[:25]}, None, "25 rows at 13 steps"),
        ({"seed": [0] * 12 + [1] * 13}, None, "2 kinds of seed"),
    ],
)
def test_histories_that_say_nothing_are_refused(change, to, message):
    with pytest.raises(EquivProbeError, match=message):
        forecast({**history(), **change}, to)


def test_a_forecast_is_a_record(tmp_path):
    found = forecast(history(noise=0.02), to=3e4, resamples=50, name="small", unit="eV²")
    for one in (found, Results.of({"a": found, "b": found})):
        one.save(tmp_path / "one.json")
        again = ep.load(tmp_path / "one.json")
        assert again == one
        assert str(again) == str(one)
    assert "small: the share at step 30000" in found._repr_html_()
    losses, of_share = figure_of(found).axes
    assert losses.get_ylabel() == "loss, eV²"
    assert of_share.get_ylabel() == "share, L_equiv / L_total"
    np.testing.assert_allclose(losses.get_lines()[1].get_ydata(), found.history[:, 1])
    assert found.rows()[1]["% high"] == 100 * found.share.high
    with pytest.raises(EquivProbeError, match="not after the last step"):
        Forecast.from_dict({**found.to_dict(), "to": 10.0})


def test_the_command_forecasts_a_report_and_a_log(tmp_path):
    """The report holds rows of training, too, which are not mixed with those of validation."""
    own = {**history(noise=0.02), "step": STEPS.round()}
    other = {name: column[:12] for name, column in history(noise=0.3, seed=1).items()}
    keys = ("step", "L_mean", "L_equiv")
    rows = [
        {"stage": stage, "output": "forces", **dict(zip(keys, row, strict=True))}
        for stage, part in (("train", other), ("val", own))
        for row in zip(*(part[key].tolist() for key in keys), strict=True)
    ]
    report, log = tmp_path / "report.json", tmp_path / "metrics.csv"
    report.write_text(json.dumps({"history": rows}))
    lines = [f"{row['step']},{row['L_mean']},{row['L_equiv']}" for row in rows if row["stage"] == "val"]
    log.write_text("\n".join(["step,equiv/val/forces/L_mean,equiv/val/forces/L_equiv", *lines]) + "\n")
    expected = forecast(own, 2e4, resamples=50)
    for path in (report, log):
        out = tmp_path / f"{path.stem}.ahead.json"
        options = ["--to", "20000", "--resamples", "50", "-o", str(out)]
        result = CliRunner().invoke(build(), ["forecast", str(path), *options])
        assert result.exception is None, result.output
        told = Forecast.load(out)
        assert told.share == expected.share
        assert told.laws["L_mean"].values == pytest.approx(expected.laws["L_mean"].values)
        assert told.name == "val/forces"
        assert told.document().headline.answer in " ".join(result.stdout.split())
