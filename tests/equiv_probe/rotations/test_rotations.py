"""Designs average what they say, Haar sampling is Haar, and plans are reproducible and keep to themselves."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy import stats
from torch import Tensor

from equiv_probe.errors import EquivProbeError
from equiv_probe.rotations.designs import GROUP_DEGREES, GROUP_ORDERS, design_degrees, group
from equiv_probe.rotations.haar import angles, from_quaternions, generators, haar, to_quaternions
from equiv_probe.rotations.plan import RotationPlan

DESIGNS = [
    "klein",
    "tetrahedral",
    "octahedral",
    "icosahedral",
    *(f"design-{d}" for d in design_degrees()),
    *(f"lebedev-{d}" for d in (3, 4, 5, 7, 8, 11, 13)),
]  # SciPy's rule 13 has negative weights

# Wigner matrices of generic rotations in float64: rounding of ~1e-15 per element, and e3nn's Euler angles lose half the
# digits only within 1e-8 of a pole, where no generic rotation is. Averages that do not vanish are above 1e-3.
ZERO = 1e-12
HALF_DIGITS = 1e-7


@pytest.fixture
def float64_default():
    """e3nn makes its generators in the default dtype; in float32 its Wigner matrices are only good to 1e-6."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def wigner_average(rotations: Tensor, weights: Tensor, degree: int, parity: int = 1) -> float:
    """Largest element of ``Σ w_i D^l(d_i)``, D^l of O(3) with the given parity."""
    return float(torch.einsum("i,ijk->jk", weights, o3.Irrep(degree, parity).D_from_matrix(rotations)).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
def test_design_averages_wigner_matrices_up_to_its_degree_and_not_beyond(design: str, float64_default: None) -> None:
    plan = RotationPlan(design, replicates=1)
    rotations = plan.rotations()[0]  # rotated at random, so that no element sits on a pole of the Euler angles
    assert abs(float(plan.weights.sum()) - 1) < 1e-14
    assert bool((plan.weights > 0).all())
    for degree in range(1, plan.degree + 1):
        assert wigner_average(rotations, plan.weights, degree) < ZERO, degree
    assert wigner_average(rotations, plan.weights, plan.degree + 1) > 1e-3


SEVERAL = 500
"""Rotations: inversion is the same for larger designs, whose own averages are tested above; they take many seconds."""


@pytest.mark.slow
@pytest.mark.parametrize("design", ["haar", *(one for one in DESIGNS if RotationPlan(one).n < SEVERAL), "cube"])
def test_improper_plan_averages_odd_quantities_to_zero(design: str, float64_default: None) -> None:
    plan = RotationPlan(design, replicates=1, improper=True)
    proper = RotationPlan(design, replicates=1)
    rotations = plan.rotations()[0] if plan.is_random else haar(1, plan.generator())[0] @ plan.rotations()[0]
    assert plan.n == 2 * proper.n
    assert abs(float(plan.weights.sum()) - 1) < 1e-14
    assert torch.allclose(
        torch.linalg.det(rotations).sort().values, torch.tensor([-1.0, 1.0]).repeat_interleave(plan.n // 2)
    )
    for degree in range(plan.degree + 4):
        # Inversion changes the sign of every odd representation, of the pseudoscalar (l = 0) and beyond the degree too.
        assert wigner_average(rotations, plan.weights, degree, parity=-1) < ZERO, degree
    for degree in range(1, plan.degree + 1):
        assert wigner_average(rotations, plan.weights, degree, parity=1) < ZERO, degree
    assert wigner_average(rotations, plan.weights, plan.degree + 1, parity=1) > 1e-3


@pytest.mark.parametrize(("degree", "size"), [(3, 24), (5, 84), (7, 208)])
def test_lebedev_sizes(degree: int, size: int) -> None:
    assert RotationPlan(f"lebedev-{degree}").n == size


@pytest.mark.parametrize("name", list(GROUP_ORDERS))
def test_groups_are_groups_of_the_right_order(name: str) -> None:
    elements = group(name)
    assert len(elements) == GROUP_ORDERS[name] == RotationPlan(name).n
    assert torch.equal(elements[0], torch.eye(3, dtype=torch.float64))
    assert torch.allclose(elements @ elements.mT, torch.eye(3, dtype=torch.float64), atol=1e-12)
    products = torch.einsum("aij,bjk->abik", elements, elements)
    near = (products[:, :, None] - elements).abs().amax((-2, -1)) < 1e-9
    assert bool((near.sum(-1) == 1).all()), "every product is exactly one element"
    # A group table is a Latin square: every element once in every row.
    assert bool((near.sum(1) == 1).all())
    assert GROUP_DEGREES[name] == RotationPlan(name).degree


def test_groups_of_the_cube_are_exact_integers() -> None:
    for name in ("klein", "tetrahedral", "octahedral"):
        assert torch.equal(group(name), group(name).round())


def haar_scores(rotations: Tensor) -> dict[str, float]:
    """z-scores of the Haar moments, and of the angle's distribution; each is standard normal if the draws are Haar."""
    count = len(rotations)
    scores = {}
    for i in range(3):
        for j in range(3):
            element = rotations[:, i, j]
            # Elements of a Haar rotation are uniform on [−1, 1]: variances 1/3 and, of the square, 4/45.
            scores[f"E[R_{i}{j}]"] = float(element.mean()) / math.sqrt(1 / 3 / count)
            scores[f"E[R_{i}{j}²]"] = (float(element.square().mean()) - 1 / 3) / math.sqrt(4 / 45 / count)
    angle = angles(rotations)
    mean = math.pi / 2 + 2 / math.pi  # 126.5°, from the density (1 − cos θ)/π
    variance = math.pi**2 / 3 + 2 - mean**2  # E θ² = π²/3 + 2
    scores["mean angle"] = (float(angle.mean()) - mean) / math.sqrt(variance / count)
    p_value = stats.kstest(angle.numpy(), lambda t: (t - np.sin(t)) / math.pi).pvalue
    scores["angle density"] = float(stats.norm.isf(max(p_value, 1e-300) / 2))
    return scores


# 20 scores per run and 10 seeds: 5σ is passed by chance once in 9000 runs of the whole test.
BOUND = 5.0


@pytest.mark.parametrize("seed", range(10))
def test_haar_moments(seed: int) -> None:
    scores = haar_scores(haar(20_000, torch.Generator().manual_seed(seed)))
    assert max(abs(score) for score in scores.values()) < BOUND, scores
    assert abs(math.degrees(math.pi / 2 + 2 / math.pi) - 126.5) < 0.05


def test_plan_rotations_are_each_haar() -> None:
    draws = [RotationPlan("icosahedral", replicates=400, seed=seed).rotations()[:, 17] for seed in range(20)]
    scores = haar_scores(torch.cat(draws))
    assert max(abs(score) for score in scores.values()) < BOUND, scores


def test_left_and_right_translation_leave_haar_draws_haar() -> None:
    draws, fixed = haar(20_000, torch.Generator().manual_seed(3)), haar(2, torch.Generator().manual_seed(4))
    scores = {**haar_scores(fixed[0] @ draws), **{f"{k} right": v for k, v in haar_scores(draws @ fixed[1]).items()}}
    assert max(abs(score) for score in scores.values()) < BOUND, scores


def test_negative_control_three_uniform_euler_angles_are_not_haar() -> None:
    generator = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(20_000, 3, generator=generator, dtype=torch.float64)
    about_each_axis = [torch.linalg.matrix_exp(angle[:, a, None, None] * generators()[a]) for a in range(3)]
    scores = haar_scores(about_each_axis[0] @ about_each_axis[1] @ about_each_axis[2])
    assert max(abs(score) for score in scores.values()) > 20, scores


def test_haar_draws_are_rotations() -> None:
    rotations = haar(100, torch.Generator().manual_seed(0))
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64), atol=1e-14)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(100, dtype=torch.float64), atol=1e-14)


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 1.0, math.pi - 1e-9, math.pi])
def test_angles_are_accurate_at_both_ends(angle: float) -> None:
    rotate = torch.linalg.matrix_exp(angle * generators()[1])
    # arccos of the trace would be off by 1e-8 at both ends; arctan2 is good to rounding.
    assert abs(float(angles(rotate)) - angle) < 1e-14


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1.0, math.pi - 1e-9, math.pi])
def test_quaternions_of_rotations_are_those_that_they_were_made_of(angle: float) -> None:
    axes = torch.nn.functional.normalize(
        torch.randn(50, 3, generator=torch.Generator().manual_seed(1)).double(), dim=-1
    )
    axes = torch.cat([axes, torch.eye(3).double(), -torch.eye(3).double()])
    half = torch.full((len(axes), 1), angle / 2, dtype=torch.float64)
    given = torch.cat([half.cos(), half.sin() * axes], -1)
    found = to_quaternions(from_quaternions(given))
    sign = (found * given).sum(-1, keepdim=True).sign()
    # Matrix elements are known to an ulp; each component is divided by the largest, which is at least 1/2.
    torch.testing.assert_close(sign * found, given, rtol=0, atol=4 * torch.finfo(torch.float64).eps)


def test_generators_rotate_the_right_way() -> None:
    quarter = torch.linalg.matrix_exp(math.pi / 2 * generators())
    basis = torch.eye(3, dtype=torch.float64)
    for a in range(3):  # about x, y goes to z, and so on
        assert torch.allclose(quarter[a] @ basis[(a + 1) % 3], basis[(a + 2) % 3], atol=1e-15)


def test_seeded_plan_is_reproducible_and_leaves_the_global_random_state_alone() -> None:
    torch_before, python_before = torch.get_rng_state(), random.getstate()
    numpy_before = np.random.get_state()  # noqa: NPY002 - the global state is what must not move
    first, again = (RotationPlan("octahedral", seed=5).rotations() for _ in range(2))
    other = RotationPlan("octahedral", seed=6).rotations()
    unseeded = haar(2), haar(2)
    assert torch.equal(first, again)
    assert float((first - other).abs().max()) > 0.1
    assert float((unseeded[0] - unseeded[1]).abs().max()) > 1e-3
    assert torch.equal(torch.get_rng_state(), torch_before)
    numpy_after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(numpy_after, numpy_before, strict=True))
    assert random.getstate() == python_before
    torch.manual_seed(123)  # nor does the plan depend on it
    assert torch.equal(RotationPlan("octahedral", seed=5).rotations(), first)


def test_explicit_generator_is_used_and_moved() -> None:
    generator = torch.Generator().manual_seed(1)
    plan = RotationPlan("klein")
    first, second = plan.rotations(generator), plan.rotations(generator)
    assert not torch.equal(first, second)
    assert torch.equal(plan.rotations(torch.Generator().manual_seed(1)), first)


def test_generators_of_different_keys_are_independent() -> None:
    plan = RotationPlan(seed=1)
    draws = torch.stack([torch.rand(2000, generator=plan.generator(key), dtype=torch.float64) for key in range(20)])
    assert torch.equal(draws[3], torch.rand(2000, generator=plan.generator(3), dtype=torch.float64))
    correlation = torch.corrcoef(draws)
    off_diagonal = correlation[~torch.eye(20, dtype=torch.bool)]
    # z = r √n for 190 pairs: 5σ by chance once in 9000 runs.
    assert float(off_diagonal.abs().max()) * math.sqrt(2000) < 5
    assert not torch.equal(plan.generator(1, 2).get_state(), plan.generator(2, 1).get_state())
    assert not torch.equal(plan.generator(3).get_state(), RotationPlan(seed=2).generator(3).get_state())


def test_defaults_and_sizes() -> None:
    plan = RotationPlan()
    assert (plan.design, plan.R, plan.n, plan.size, plan.degree) == ("tetrahedral", 4, 12, 48, 2)
    assert RotationPlan("haar").size == 16
    assert RotationPlan("haar").degree == 0
    assert RotationPlan("icosahedral", replicates=2).rotations().shape == (2, 60, 3, 3)
    assert RotationPlan("haar").rotations().dtype == torch.float64


def test_cube_is_the_untouched_group() -> None:
    plan = RotationPlan("cube", seed=9)
    assert torch.equal(plan.rotations(), group("octahedral")[None])
    assert torch.equal(plan.rotations(torch.Generator().manual_seed(1)), plan.rotations())
    assert not plan.is_random


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"design": "dodecahedral"}, "one of haar, klein"),
        ({"design": "lebedev"}, "lebedev-<degree>"),
        ({"design": "lebedev-500"}, "1 to 131"),
        ({"design": "lebedev-0"}, "1 to 131"),
        ({"replicates": 0}, "at least 1"),
        ({"replicates": 2.0}, "whole number"),
        ({"design": "cube", "replicates": 2}, "not rotated at random"),
        ({"seed": -1}, "seed"),
    ],
)
def test_errors_teach(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(EquivProbeError, match=message):
        RotationPlan(**kwargs)  # type: ignore[arg-type]


def test_unknown_group() -> None:
    with pytest.raises(EquivProbeError, match="one of klein"):
        group("cubic")


@pytest.mark.gpu
def test_rotations_on_the_generators_device() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    rotations = RotationPlan("tetrahedral").rotations(generator)
    assert rotations.device.type == "cuda"
    assert torch.allclose(torch.linalg.det(rotations).cpu(), torch.ones(4, 12, dtype=torch.float64))
