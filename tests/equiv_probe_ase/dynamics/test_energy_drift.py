"""The drift of the total energy: its interval covers what it says for rows that remember, or there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import linregress

from equiv_probe_ase.dynamics.energy_drift import energy_drift

SLOPE = 0.3


def series(count: int, memory: float, seeds: int) -> np.ndarray:
    """A planted slope under a stationary autoregressive series, or a random walk where ``memory`` is 1."""
    noise = np.random.default_rng(5).standard_normal((seeds, count))
    if memory < 1:
        noise[:, 0] /= math.sqrt(1 - memory**2)
    return SLOPE * 0.5 * np.arange(count) + lfilter([1.0], [1.0, -memory], noise, axis=1)


def fitted(count: int, memory: float, seeds: int = 400) -> tuple[float, float]:
    """How many series have an interval, and how many of these intervals hold the slope."""
    lines = [energy_drift(0.5 * np.arange(count), row) for row in series(count, memory, seeds)]
    having = [line for line in lines if math.isfinite(line.stderr)]
    return len(having) / seeds, sum(line.interval[0] < SLOPE < line.interval[1] for line in having) / max(
        1, len(having)
    )


@pytest.mark.parametrize(
    ("count", "memory"), [(50, -0.5), (50, 0.0), (100, 0.5), (300, 0.8), (1000, 0.9), (1000, 0.95)]
)
def test_intervals_cover_what_they_say(count: int, memory: float) -> None:
    having, covered = fitted(count, memory)
    assert having > 0.95
    # Of 400 at 95 %, three standard errors are 3.3 %, and a sixth of a block is remembered by the next one.
    assert 0.91 < covered < 0.985


def test_rows_that_are_taken_for_independent_cover_far_less() -> None:
    """The control: an ordinary straight line's error bar."""
    held = 0
    for row in series(300, 0.8, 200):
        line = linregress(0.5 * np.arange(300), row)
        held += abs(line.slope - SLOPE) < 1.96 * line.stderr
    assert held / 200 < 0.6


@pytest.mark.parametrize(("count", "memory"), [(24, 0.8), (50, 0.9), (100, 0.95), (300, 0.99), (300, 1.0)])
def test_a_run_that_is_too_short_for_its_memory_has_no_error_bar(count: int, memory: float) -> None:
    having, covered = fitted(count, memory)
    assert having < 0.1
    assert having * (1 - covered) < 0.06  # intervals that are stated and wrong


def test_few_rows_have_a_slope_and_no_error_bar() -> None:
    line = energy_drift([0.0, 1.0, 2.0, 4.0], [1.0, 3.0, 5.0, 9.0])
    assert line.slope == pytest.approx(2.0)
    assert math.isnan(line.stderr)
    assert math.isnan(line.interval[0])
    assert line.in_words("eV/ps") == (
        "2.00 eV/ps (straight line through 4 rows; no error bar: too few rows, or too much alike from row to row)"
    )


def test_a_curve_is_no_straight_line_with_an_error_bar() -> None:
    times = np.linspace(0, 1, 200)
    assert math.isnan(energy_drift(times, times**2).stderr)
    straight = energy_drift(times, 3.0 * times)
    assert straight.interval == pytest.approx((3.0, 3.0))
    words = energy_drift(times, [3.0 * t + (-1) ** k for k, t in enumerate(times)]).in_words("eV/ps")
    assert " ± " in words
    assert "200 rows; 95 % interval [" in words
