"""Few carry the sum: effective numbers, and intervals of heavy-tailed structures against their true mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equiv_probe.estimation.controls import many_carry
from equiv_probe.estimation.estimates import Sums
from equiv_probe.estimation.few import bootstrap_t, effective_number


def coverage(sigma: float, n: int, runs: int) -> tuple[float, float, float]:
    """How often intervals of log-normal means hold the truth, bootstrap-t and Student on the log scale; their worth."""
    rng, truth = np.random.default_rng(0), math.exp(sigma**2 / 2)
    hits, worth = np.zeros(2), []
    for _ in range(runs):
        x, one = rng.lognormal(0, sigma, n), np.ones(n)
        student = Sums.of(torch.from_numpy(x), torch.full((n,), math.nan).double(), torch.ones(n).double()).equiv
        low, high = bootstrap_t(x, one)
        hits += [low <= truth <= high, student.low <= truth <= student.high]
        worth.append(effective_number(x))
    return hits[0] / runs, hits[1] / runs, float(np.median(worth))


def test_heavy_tails_are_covered_better_and_called_few() -> None:
    """200 samples, a standard error of 2.5 %: 88 % where Student's interval on the log scale covers 81 %."""
    bootstrap, student, worth = coverage(2.0, 100, 200)
    assert student < 0.87
    assert bootstrap > student + 0.03
    assert bootstrap > 0.82
    assert 8 < worth < 14


def test_light_tails_are_covered_as_they_should() -> None:
    bootstrap, _, worth = coverage(0.5, 60, 200)
    assert 0.89 < bootstrap <= 0.99
    assert worth > 40


@pytest.mark.parametrize(("effective", "count", "passed"), [(9.0, 100, False), (30.0, 100, True), (5.0, 9, None)])
def test_the_control_of_few(effective: float, count: int, passed: bool | None) -> None:
    found = many_carry("forces", effective, count, "structures", " (the largest makes 40 %)")
    assert found.passed is passed
    assert ("a few structures carry this number (the largest" in found.sentence) == (passed is False)


def test_effective_numbers() -> None:
    assert effective_number(np.array([1.0, 1.0, -1.0, 1.0])) == 4
    assert effective_number(np.zeros(3)) == 3
    cosine_squared = np.linspace(-1, 1, 100_001) ** 2  # of an error of degree one: (1/3)² / (1/5) of all rotations
    assert effective_number(cosine_squared) / len(cosine_squared) == pytest.approx(5 / 9, rel=1e-3)
