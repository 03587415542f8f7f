"""Designs of each degree: few rotations, positive weights, and the script that finds them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.choice_of_plan import aliasing
from equiv_probe.estimation.spectrum import character
from equiv_probe.rotations.designs import design_degrees, group, of_degree, quadrature, smallest_first, spread_degrees
from equiv_probe.rotations.haar import angles, from_quaternions, to_quaternions
from equiv_probe.rotations.plan import RotationPlan

from . import find_designs, find_spread

# Of Gräf's Gauss-type quadratures (Efficient algorithms for the computation of optimal quadrature points on Riemannian
# manifolds, 2013), which have weights too, and where there is none of his Chebyshev-type ones.
LITERATURE = {1: 4, 2: 11, 3: 23, 4: 43, 5: 60, 6: 116, 7: 168, 8: 240, 9: 300, 11: 504, 13: 1176, 14: 960}


def norms(degree: int, rotations: torch.Tensor, weights: torch.Tensor) -> float:
    """``‖Σ w D^l(d)‖²`` through characters."""
    theta = angles(torch.einsum("nji,mjk->nmik", rotations, rotations))
    return float(torch.einsum("nm,n,m->", character(theta, degree), weights, weights))


@pytest.mark.parametrize(
    "degree", [pytest.param(degree, marks=pytest.mark.slow if degree > 8 else ()) for degree in design_degrees()]
)
def test_a_design_is_exact_and_small(degree: int) -> None:
    """Against all Wigner matrices, through ``‖Σ w D^l‖² = Σ w w χ_l``, whose rounding is 1e-16 times the squares."""
    rotations, weights = of_degree(degree)
    assert len(rotations) >= math.comb(degree + 3, 3)  # no rule has fewer
    assert len(rotations) <= len(quadrature(degree)[1])
    if degree in LITERATURE:
        assert len(rotations) <= 1.1 * LITERATURE[degree]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).double().expand_as(rotations))
    assert float(weights.min()) > 0.2 * float(weights.max())
    assert float(weights.sum()) == pytest.approx(1, abs=1e-14)
    assert all(abs(norms(below, rotations, weights)) < 1e-14 for below in range(1, degree + 1))
    assert norms(degree + 1, rotations, weights) > 1e-3


def test_degrees_that_are_groups_are_the_groups() -> None:
    same = (RotationPlan(name, 1, seed=3).rotations() for name in ("design-5", "icosahedral"))
    torch.testing.assert_close(*same)


def test_a_degree_without_a_design_names_the_quadrature() -> None:
    with pytest.raises(EquivProbeError, match="lebedev-40"):
        RotationPlan("design-40")


@pytest.mark.parametrize(("name", "left", "right"), [("I×C1", "icosahedral", None), ("O×D2", "octahedral", "klein")])
def test_the_script_counts_the_invariants_of_a_group(name: str, left: str, right: str | None) -> None:
    """Molien's series in four dimensions says what the means of the characters of both sides say."""
    found = find_designs.Group(name, find_designs.groups()[name], 9, 2000).counts

    def invariants(of: str | None, degree: int) -> int:
        if of is None:
            return 2 * degree + 1
        return round(float(character(angles(group(of)), degree).mean()))

    assert found == [invariants(left, degree) * invariants(right, degree) for degree in range(1, 10)]


def test_the_script_finds_a_rule() -> None:
    """168 rotations of degree 7: one orbit of the octahedral group on one side and rotations by 2π/7 on the other."""
    group = find_designs.Group("O×C7", find_designs.groups()["O×C7"], 7, 2000)
    assert sum(group.counts) + group.drift == 3
    rng = np.random.default_rng(0)
    starts = [find_designs.solve(group, group.strata[-1:], rng, equal=True) for _ in range(8)]
    assert min(worst for worst, _, _ in starts) < 1e-14


@pytest.mark.parametrize("plan", ["tetrahedral", "design-6", "lebedev-3"])
def test_aliasing_is_the_variance_of_an_average(plan: str) -> None:
    """Of a Wigner function with unit power over randomly rotated replicates, drawn; four standard errors of 4000."""
    for degree in (3, 6, 7):
        drawn = RotationPlan(plan, 4000, seed=degree)
        # Σ over all matrix elements of D^l has power 2l + 1, each element as much as the others: the character.
        means = torch.einsum("rn,n->r", character(angles(drawn.rotations()), degree), drawn.weights)
        expected = aliasing(drawn, degree)
        error = float(means.square().std()) / 4000**0.5
        assert float(means.square().mean()) == pytest.approx(expected, abs=4 * error + 1e-12)


def product_rule(directions: int, angles_: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lebedev × equal steps, with as many steps as somebody else's averages take."""
    elements, weights = quadrature(directions)
    step = len(weights) // (directions + 1)
    first = elements.reshape(step, directions + 1, 3, 3)[:, 0]
    turns = torch.arange(angles_).double() * 2 * math.pi / angles_
    about = torch.zeros(angles_, 3, 3, dtype=torch.float64)
    about[:, 0, 0], about[:, 1, 1], about[:, 2, 2] = turns.cos(), turns.cos(), 1.0
    about[:, 0, 1], about[:, 1, 0] = -turns.sin(), turns.sin()
    weight = weights.reshape(step, directions + 1).sum(1) / angles_
    return (first[:, None] @ about).reshape(-1, 3, 3), weight.repeat_interleave(angles_)


@pytest.mark.parametrize("count", spread_degrees())
def test_rotations_that_are_spread_evenly_are_exact_to_their_degree(count: int) -> None:
    plan = RotationPlan(f"spread-{count}", 1)
    rotations, weights = plan.rotations()[0], plan.weights
    assert len(rotations) == count
    assert weights.tolist() == [1 / count] * count
    assert all(abs(norms(below, rotations, weights)) < 1e-14 for below in range(1, plan.degree + 1))
    assert norms(plan.degree + 1, rotations, weights) > 1e-3


@pytest.mark.parametrize("decay", [0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize(
    ("ours", "angles_", "others"),
    [("spread-18", 3, 18), ("spread-30", 5, 30), ("spread-36", 7, 42), ("spread-42", 7, 42)],
)
def test_they_alias_less_than_a_product_rule_of_as_many(decay: float, ours: str, angles_: int, others: int) -> None:
    """Of the six directions of the axes × 2l + 1 equal steps, as metatomic takes for l = 1, 2, 3."""
    rotations, weights = product_rule(3, angles_)
    assert len(weights) == others >= RotationPlan(ours, 1).n
    theirs = sum(decay**degree * norms(degree, rotations, weights) / (2 * degree + 1) for degree in range(1, 13))
    plan = RotationPlan(ours, 1)
    assert sum(decay**degree * aliasing(plan, degree) for degree in range(1, 13)) < 0.97 * theirs


def test_the_smallest_come_first() -> None:
    sizes = [RotationPlan(name, 1).n for name in itertools.islice(smallest_first(), 10)]
    assert sizes == [4, 12, 18, 24, 30, 36, 42, 43, 60, 116]


def test_a_number_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(EquivProbeError, match="18, 30, 36, 42"):
        RotationPlan("spread-17")


def test_the_script_finds_the_tetrahedral_group_as_the_best_of_twelve() -> None:
    energy = min(find_spread.descend(12, 2, seed)[0] for seed in range(3))
    group_ = find_spread.spread_energy(to_quaternions(group("tetrahedral")), 2)
    assert energy == pytest.approx(float(group_), rel=1e-6)


def test_the_script_makes_rotations_exact() -> None:
    """From the stored ones, displaced by a thousandth; Newton's method ends at others nearby."""
    stored = to_quaternions(RotationPlan("spread-18", 1).rotations()[0])
    moved = stored + 1e-3 * torch.randn(18, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, equal = from_quaternions(find_spread.exact(moved, 2)), torch.full((18,), 1 / 18, dtype=torch.float64)
    before = norms(2, from_quaternions(moved), equal)
    assert abs(norms(1, found, equal)) + abs(norms(2, found, equal)) < 1e-14 < before
