"""Differences by angle and by axis of a rotation, against closed forms: ``f(x) = A x`` of one angular degree."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import equiv_probe as ep
from equiv_probe.estimation.orbit import Orbit
from equiv_probe.estimation.spectrum import character
from equiv_probe.estimation.variogram import ANGLE_EDGES, BANDS, SECTORS, Pairs, Variogram, variogram

SCHEMA = ep.Schema(inputs={"pos": ep.point}, outputs={"out": ep.vector})
# gᵀ A g is of degree one for an antisymmetric A, of degree two for a symmetric one without a trace.
SWIRL = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)  # z × x
STRETCH = torch.diag(torch.tensor([-1.0, -1.0, 2.0], dtype=torch.float64))
DEGREES = {1: SWIRL, 2: STRETCH}


def orbit(matrix: torch.Tensor, plan: ep.RotationPlan, position: torch.Tensor) -> Orbit:
    """Of one vector under ``f(x) = A x``."""
    rotations = plan.rotations()
    values = torch.einsum("rnba,bc,rncd,d->rna", rotations, matrix, rotations, position)
    return Orbit.from_values({"out": values}, {"out": matrix @ position}, SCHEMA, plan, rotations)


def measured(
    matrix: torch.Tensor, design: str = "tetrahedral", replicates: int = 4, structures: int = 200
) -> Variogram:
    """In units of ``L_equiv``, which is ``‖A‖² ‖x‖² / 9`` for a matrix without a trace."""
    generator = torch.Generator().manual_seed(0)
    unit = float(matrix.square().sum()) / 9
    found = []
    for seed in range(structures):
        position = torch.randn(3, dtype=torch.float64, generator=generator)
        position /= position.norm() * math.sqrt(unit)
        found.append(variogram(orbit(matrix, ep.RotationPlan(design, replicates, seed=seed), position), "out"))
    return Variogram(*(sum(getattr(one, name) for one in found) for name in Variogram.__dataclass_fields__))


def expected(low: float, high: float, degree: int) -> float:
    """Mean of ``1 − χ_l(θ)/(2l+1)`` over a bin of angles (degrees), which have the density (1 − cos θ)/π."""
    theta = torch.linspace(math.radians(low), math.radians(high), 2001, dtype=torch.float64)
    density = 1 - torch.cos(theta)
    return float((density * (1 - character(theta, degree) / (2 * degree + 1))).sum() / density.sum())


@pytest.mark.slow
@pytest.mark.parametrize("design", ["tetrahedral", "klein", "haar"])
@pytest.mark.parametrize("degree", [1, 2])
def test_against_the_angle_it_follows_the_character_of_its_degree(design: str, degree: int) -> None:
    plan = {"tetrahedral": 4, "klein": 8, "haar": 8}[design]
    found = measured(DEGREES[degree], design, plan, structures=400 if design == "haar" else 200)
    means = found.by_angle / found.pairs_by_angle
    for mean, (low, high) in zip(means.tolist(), pairwise(ANGLE_EDGES), strict=True):
        # From repetitions with other seeds: at most 0.05 off where pairs are many, and at small angles there is little.
        assert mean == pytest.approx(expected(low, high, degree), abs=0.1), (low, high)
    # Negative control: the other degree's curve is farther away than the tolerance.
    assert max(abs(expected(a, b, 1) - expected(a, b, 2)) for a, b in pairwise(ANGLE_EDGES)) > 0.3


def test_about_the_axis_that_the_model_singles_out_nothing_changes() -> None:
    """A swirl about z: D is 3/2 (1 − z²) about an axis of height z."""
    found = measured(SWIRL)
    cells = (found.by_axis / found.pairs_by_axis).reshape(BANDS, SECTORS)
    edges = [band / BANDS for band in range(BANDS + 1)]
    for band, (low, high) in zip(cells.mean(1).tolist(), pairwise(edges), strict=True):
        assert band == pytest.approx(1.5 * (1 - (high**3 - low**3) / (high - low) / 3), rel=0.08)
    assert float(cells[0].std() / cells[0].mean()) < 0.1  # about z all directions are alike
    assert float(found.pairs_by_axis.std() / found.pairs_by_axis.mean()) < 0.1  # cells of equal area


def test_a_model_that_singles_out_x_has_its_hole_there() -> None:
    about_x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    found = measured(about_x)
    equator = (found.by_axis / found.pairs_by_axis).reshape(BANDS, SECTORS)[0]
    near_x = float(equator[[0, 5, 6, 11]].mean())  # longitudes within 30° of x or −x: ⟨cos²⟩ is 0.91
    near_y = float(equator[[2, 3, 8, 9]].mean())  # 0.09
    horizontal = 1 - 1 / 48  # ⟨1 − z²⟩ in the lowest band
    assert near_x == pytest.approx(1.5 * (1 - 0.9135 * horizontal), rel=0.15)
    assert near_y == pytest.approx(1.5 * (1 - 0.0865 * horizontal), rel=0.08)


def test_an_equivariant_model_differs_nowhere() -> None:
    found = measured(torch.eye(3, dtype=torch.float64), structures=3)
    assert float(found.by_angle.max()) < 1e-25
    assert float(found.by_axis.max()) < 1e-25


def test_pairs_within_a_replicate_are_left_out() -> None:
    one = orbit(SWIRL, ep.RotationPlan("tetrahedral", 3), torch.ones(3, dtype=torch.float64))
    assert len(Pairs.of(one).first) == 3 * 12 * 12  # three pairs of replicates
    assert float(variogram(one, "out").pairs_by_angle.sum()) == pytest.approx(3 * 12 * 12)


def test_weights_of_the_design_count() -> None:
    """Lebedev designs have unequal weights: with them the mean over all pairs is L_equiv, up to the sampling."""
    found = measured(STRETCH, "lebedev-3", 4, structures=60)
    assert float(found.by_angle.sum() / found.pairs_by_angle.sum()) == pytest.approx(1.0, abs=0.05)


def test_pairs_are_sorted_into_bins_as_scipys_rotation_vectors_are() -> None:
    one = orbit(torch.eye(3).double(), ep.RotationPlan("icosahedral", 4, seed=3), torch.ones(3).double())
    pairs, rotations = Pairs.of(one), one.rotations.reshape(-1, 3, 3)
    between = rotations[pairs.second] @ rotations[pairs.first].mT
    vectors = Rotation.from_matrix(between.numpy()).as_rotvec()
    lengths = np.linalg.norm(vectors, axis=1)
    axes = vectors / lengths[:, None] * np.where(vectors[:, 2:] < 0, -1, 1)
    angle_bins = np.digitize(np.degrees(lengths), ANGLE_EDGES[1:-1])
    longitude = np.arctan2(axes[:, 1], axes[:, 0]) % (2 * np.pi)
    cells = (axes[:, 2] * BANDS).astype(int) * SECTORS + (longitude / (2 * np.pi) * SECTORS).astype(int)
    assert pairs.angle_bin.tolist() == angle_bins.tolist()  # of Haar rotations none is within rounding of an edge
    assert pairs.axis_bin.tolist() == cells.tolist()
