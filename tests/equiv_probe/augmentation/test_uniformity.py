"""The tests of uniformity and independence: their level over many seeds, and what they find."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from equiv_probe.augmentation.uniformity import (
    DEGREES,
    HAAR_ANGLE,
    association,
    moments,
    recipe,
    serial,
    uniformity,
)
from equiv_probe.estimation.sobolev import sobolev
from equiv_probe.rotations.designs import group
from equiv_probe.rotations.haar import from_quaternions, generators, haar


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def about(axis: str, angle: Tensor) -> Tensor:
    return torch.linalg.matrix_exp(angle[:, None, None] * generators()["xyz".index(axis)])


def uniform(count: int, seed: int) -> Tensor:
    return 2 * math.pi * torch.rand(count, generator=generator(seed), dtype=torch.float64)


def euler(order: str, count: int = 400) -> Tensor:
    a, b, c = (about(axis, uniform(count, seed)) for seed, axis in enumerate(order))
    return a @ b @ c


def within_binomial(count: int, total: int, rate: float) -> bool:
    """Whether a count agrees with a rate: two-sided, at 1e-4."""
    return float(stats.binomtest(count, total, rate).pvalue) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("degree", DEGREES)
def test_haar_rotations_give_the_chi_square_law(degree: int) -> None:
    draws = haar(2000 * 128, generator()).reshape(2000, 128, 3, 3)
    statistic = torch.cat([sobolev(part, degree) for part in draws.split(100)])
    dof = (2 * degree + 1) ** 2
    # The mean is exact for any K; its standard error over 2000 repetitions is √(2 dof / 2000).
    assert abs(float(statistic.mean()) - dof) < 4 * (2 * dof / 2000) ** 0.5
    p = torch.from_numpy(stats.chi2.sf(statistic.numpy(), dof))
    for level in (0.1, 0.05, 0.01):
        assert within_binomial(int((p < level).sum()), 2000, level), f"level {level}"


def test_the_statistic_is_the_squared_mean_of_wigner_matrices() -> None:
    """At l = 1 the Wigner matrix is the rotation itself, up to a basis: V_1 = 3 K ‖mean R‖²."""
    g = haar(50, generator(1))
    assert float(sobolev(g, 1)) == pytest.approx(3 * 50 * float(g.mean(0).square().sum()), rel=1e-12)


def test_the_statistic_is_invariant_to_rotations_from_both_sides() -> None:
    g, (a, b) = euler("zyx", 60), haar(2, generator(2))
    for degree in DEGREES:
        assert float(sobolev(a @ g @ b, degree)) == pytest.approx(float(sobolev(g, degree)), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("improper", [False, True])
def test_false_alarms_come_at_the_stated_rate(improper: bool) -> None:
    alarms, total, level = 0, 600, 0.05
    for seed in range(total):
        g = haar(100, generator(1000 + seed))
        if improper:
            g = g * (torch.rand(100, 1, 1, generator=generator(5000 + seed)) - 0.5).sign()
        alarms += uniformity(g, improper=improper).p_value < level
    # Bonferroni over parts that are independent: 1 − (1 − α/n)ⁿ, a little below α.
    parts = 9 if improper else 4
    assert within_binomial(alarms, total, 1 - (1 - level / parts) ** parts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Haar", "one axis"])
def test_independence_is_tested_at_its_level_whatever_the_distribution(kind: str) -> None:
    total, level, alarms, paired = 300, 0.05, 0, 0
    for seed in range(total):
        g = haar(120, generator(seed)) if kind == "Haar" else about("z", uniform(120, seed))
        alarms += serial(g).p_value < level
        paired += association(g[:60], g[60:]).p_value < level
    # The two degrees are nearly uncorrelated: at most α, and about that.
    assert stats.binomtest(alarms, total, level, "greater").pvalue > 1e-3
    assert stats.binomtest(paired, total, level, "greater").pvalue > 1e-3
    assert alarms > 0.2 * level * total


@pytest.mark.parametrize("angle", [5.0, 90.0, 120.0, 180.0])
def test_a_fixed_rotation_from_draw_to_draw_is_found(angle: float) -> None:
    """Pairs (g, g c): each is Haar on its own. At 120° the character of degree 1 vanishes, the next does not."""
    step = about("z", torch.tensor([math.radians(angle)], dtype=torch.float64))[0]
    first = haar(150, generator(3))
    g = torch.stack([first, first @ step], 1).flatten(0, 1)
    assert uniformity(first).p_value > 1e-3
    assert association(first, first @ step).p_value < 1e-6
    assert serial(g).p_value < 1e-3


def test_a_random_walk_is_found_and_its_shuffle_is_not() -> None:
    walk = haar(1, generator())
    axis = torch.randn(400, 3, generator=generator(4), dtype=torch.float64)
    steps = torch.linalg.matrix_exp(torch.einsum("ka,aij->kij", axis, generators()))
    walk = [walk[0]]
    for step in steps:
        walk.append(step @ walk[-1])
    walk = torch.stack(walk)
    assert serial(walk).p_value < 1e-6
    assert serial(walk[torch.randperm(len(walk), generator=generator(5))]).p_value > 1e-3


@pytest.mark.parametrize("order", ["zyx", "zyz", "xyz", "xzy", "yzx", "xyx", "yxz"])
def test_three_uniform_euler_angles_are_found_and_named(order: str) -> None:
    g = euler(order)
    assert uniformity(g).p_value < 1e-6
    assert "Euler" in recipe(g, absolute=True)
    assert "Euler" in recipe(g @ haar(1, generator(6)), absolute=False), "relative to a rotated first draw"


def test_the_right_density_of_the_middle_angle_passes() -> None:
    """The same recipe, with cos β uniform, is Haar."""
    cosine = 2 * torch.rand(400, generator=generator(7), dtype=torch.float64) - 1
    g = about("z", uniform(400, 8)) @ about("y", torch.arccos(cosine)) @ about("z", uniform(400, 9))
    assert uniformity(g).p_value > 1e-3
    assert "Euler" not in recipe(g, absolute=True)


def axis_angle(count: int = 400) -> Tensor:
    axis = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator(10), dtype=torch.float64), dim=-1)
    return torch.linalg.matrix_exp(torch.einsum("ka,aij->kij", uniform(count, 11)[:, None] * axis, generators()))


WRONG = {
    "rotates about one axis only: z": about("z", uniform(400, 0)),
    "rotates about one axis only: x": about("x", uniform(400, 0) / 8),
    "angles too small: never more than": torch.linalg.matrix_exp(
        torch.einsum("ka,aij->kij", 0.1 * torch.randn(400, 3, generator=generator(12)).double(), generators())
    ),
    "the angle about a random axis looks uniform": axis_angle(),
    "four components of the quaternion": from_quaternions(torch.rand(400, 4, generator=generator(13)).double()),
    "QR of a Gaussian": torch.linalg.qr(torch.randn(400, 3, 3, generator=generator(14)).double())[0],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_recipes_are_found_and_named(name: str) -> None:
    g = WRONG[name]
    g = g * torch.linalg.det(g).sign()[:, None, None]
    assert uniformity(g).p_value < 1e-6
    assert name in recipe(g, absolute=True)


def test_qr_with_its_signs_mended_passes() -> None:
    q, r = torch.linalg.qr(torch.randn(400, 3, 3, generator=generator(15), dtype=torch.float64))
    g = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    assert uniformity(g, improper=True).p_value > 1e-3
    # Improper elements that hang together with the rotation are not Haar on O(3), though the rotations are on SO(3).
    proper = haar(400, generator(16))
    tied = proper * proper[:, 2, 2].sign()[:, None, None]
    assert uniformity(proper).p_value > 1e-3
    assert uniformity(tied, improper=True).p_value < 1e-6


def test_the_rotations_of_the_cube_show_at_degree_four() -> None:
    g = group("octahedral")[torch.randint(24, (400,), generator=generator(17))]
    assert all(float(stats.chi2.sf(float(sobolev(g, degree)), (2 * degree + 1) ** 2)) > 1e-4 for degree in (1, 2, 3))
    assert uniformity(g).p_value < 1e-6
    assert uniformity(g).part == "l = 4"


def test_moments_of_haar_rotations() -> None:
    g = haar(200_000, generator(18))
    angle = torch.arccos(((g.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))
    assert math.degrees(float(angle.mean())) == pytest.approx(HAAR_ANGLE, abs=0.3), "standard error 0.08°"
    assert moments(g).startswith("mean angle 126.")
    assert "0.33 to 0.33" in moments(g)
