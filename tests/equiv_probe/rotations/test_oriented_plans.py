"""Plans whose designs lie in a given way in the frame of the model; products of directions and angles."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.spectrum import character
from equiv_probe.rotations.designs import PRODUCTS, lebedev_degree, product, quadrature, smallest_first
from equiv_probe.rotations.haar import angles, from_quaternions
from equiv_probe.rotations.plan import RotationPlan

QUATERNION = (0.3, -0.5, 0.7, 0.2)


def test_the_model_sees_the_design_lie_as_it_is_told_and_the_structure_at_random() -> None:
    """``g_i g_j⁻¹ = q d_i d_j⁻¹ q⁻¹`` in every replicate, while the rotations of different replicates are others."""
    plan = RotationPlan("octahedral", 5, orientation=QUATERNION)
    drawn, (design, _) = plan.rotations(), (plan._design())
    q = from_quaternions(torch.tensor(QUATERNION, dtype=torch.float64))
    expected = q @ design @ design[3].mT @ q.mT
    torch.testing.assert_close(drawn @ drawn[:, [3]].mT, expected.expand_as(drawn), atol=1e-12, rtol=0)
    assert float((drawn[0, 0] - drawn[1, 0]).abs().max()) > 0.1


def test_every_rotation_of_it_is_haar() -> None:
    """Means of characters over 4000 replicates are 0 within five standard errors of 1/√4000, the second moment 1."""
    drawn = RotationPlan("spread-18", 4000, orientation=QUATERNION).rotations()[:, 7]
    for degree in (1, 2, 3, 4):
        of = character(angles(drawn), degree)
        assert abs(float(of.mean())) < 5 / 4000**0.5
        assert float(of.square().mean()) == pytest.approx(1, abs=0.3)
    # And of characters about another rotation, which an orientation alone would not have: g h for a fixed h.
    fixed = from_quaternions(torch.tensor([0.1, 0.9, -0.3, 0.2], dtype=torch.float64))
    assert abs(float(character(angles(fixed @ drawn), 1).mean())) < 5 / 4000**0.5


def test_other_plans_are_drawn_as_before() -> None:
    """An orientation replaces the random rotations from the left, and no others."""
    plan = RotationPlan("tetrahedral", 3, seed=4)
    relative = [(one.mT @ one[:, [1]]) for one in (plan.rotations(), replace(plan, orientation=QUATERNION).rotations())]
    torch.testing.assert_close(*relative, atol=1e-12, rtol=0)


def test_it_survives_json_and_says_that_it_is_oriented() -> None:
    plan = RotationPlan("design-3", 1, orientation=QUATERNION)
    assert RotationPlan(**json.loads(json.dumps(asdict(plan)))) == plan
    assert str(plan) == "1 × design-3 = 24 rotations, degree 3, oriented, seed 0"


@pytest.mark.parametrize("design", ["haar", "cube", "box-z"])
def test_what_is_not_rotated_from_both_sides_has_no_orientation(design: str) -> None:
    with pytest.raises(EquivProbeError, match="orientation"):
        RotationPlan(design, orientation=QUATERNION)


@pytest.mark.parametrize("given", [(0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (np.nan, 0.0, 0.0, 1.0)])
def test_an_orientation_is_a_quaternion(given: tuple[float, ...]) -> None:
    with pytest.raises(EquivProbeError, match="four numbers"):
        RotationPlan("octahedral", orientation=given)


@pytest.mark.parametrize(("directions", "angles_"), [(6, 3), (6, 5), (6, 7), (14, 6), (14, 9), (26, 15)])
def test_a_product_is_exact_to_its_degree(directions: int, angles_: int) -> None:
    """Against all Wigner matrices, through their characters."""
    plan = RotationPlan(f"product-{directions}x{angles_}", 1)
    rotations, weights = plan.rotations()[0], plan.weights
    assert plan.n == directions * angles_
    assert float(weights.min()) > 0
    theta = angles(torch.einsum("nji,mjk->nmik", rotations, rotations))
    characters = [character(theta, degree) for degree in range(1, plan.degree + 2)]
    norms = [float(torch.einsum("nm,n,m->", of, weights, weights)) for of in characters]
    assert max(map(abs, norms[:-1])) < 1e-13
    assert norms[-1] > 1e-3
    assert plan.degree == min(lebedev_degree(directions), angles_ - 1)


def test_products_as_others_take_them() -> None:
    """The six directions of the axes, from which metatomic's averages rotate: the third columns of the rotations."""
    rotations, weights = product(6, 5)
    directions = {tuple(column) for column in (rotations[:, :, 2].round() + 0.0).int().tolist()}
    assert directions == {(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)}
    assert weights.tolist() == pytest.approx([1 / 30] * 30, abs=1e-15)
    for ours, theirs in zip(quadrature(5), product(14, 6), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_products_are_offered_where_they_are_oriented() -> None:
    names = [name for name, _ in zip(smallest_first(products=True), range(11), strict=False)]
    sizes = [RotationPlan(name, 1).n for name in names]
    assert sizes == sorted(sizes)
    assert set(PRODUCTS.values()) < set(names)
    assert not set(PRODUCTS.values()) & {name for name, _ in zip(smallest_first(), range(11), strict=False)}


@pytest.mark.parametrize("name", ["product-7x3", "product-6x0", "product-6", "design-3x4"])
def test_products_that_there_are_not(name: str) -> None:
    with pytest.raises(EquivProbeError):
        RotationPlan(name)
