"""Few carry the sum: effective numbers, and intervals of heavy-tailed structures against their true mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import equiv_probe as ep
from equiv_probe.estimation.controls import many_carry
from equiv_probe.estimation.estimates import Sums
from equiv_probe.estimation.heavy_tails import bootstrap_t, effective_number


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


def squares(k: float, bonds: torch.Tensor, sizes: torch.Tensor | None = None) -> ep.Orbit:
    """The orbit of a bump of sharpness ``k`` over orientations of bonds ``(U, 3)``, one number each."""
    along = torch.nn.functional.normalize(torch.tensor([1.0, 0.3, 0.2], dtype=torch.float64), dim=0)

    def model(x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values = torch.exp(k * (x["u"] @ along - 1))
        return {"e": values if sizes is None else values * sizes}

    schema = ep.Schema(inputs={"u": ep.vector}, outputs={"e": ep.scalar})
    return ep.twirl(model, {"u": bonds}, schema, stacked=True)


def told(found: ep.Decomposition, what: str) -> bool:
    return any(f"a few {what} carry this number" in note for note in found.notes)


def test_a_decomposition_tells_when_a_few_rotations_or_structures_carry_it() -> None:
    """A smooth orbit is carried by all its rotations; a bump of 15° by one of 48, where intervals cover about half."""
    many = torch.nn.functional.normalize(torch.randn(30, 3, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    smooth, sharp = (ep.decompose(squares(k, many[:1])) for k in (1.0, 60.0))
    assert not told(smooth, "rotations")
    assert told(sharp, "rotations")
    even = ep.decompose(squares(1.0, many), structures="leading")
    uneven = ep.decompose(squares(1.0, many, 100.0 ** (torch.arange(30) < 2).double()), structures="leading")
    assert not even.notes
    assert told(uneven, "structures")
    # Too few to tell, and nothing but rounding: no word.
    assert not told(ep.decompose(squares(1.0, many[:4], torch.tensor([9.0, 0, 0, 0])), structures="leading"), "struct")
    constant = ep.decompose(squares(0.0, many, 100.0 ** (torch.arange(30) < 2).double()), structures="leading")
    assert not constant.notes
