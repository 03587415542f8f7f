"""Curvature of the three losses: against closed forms, and against dense Hessians in float64."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.conditioning import condition
from equiv_probe.landscape.curvature_estimates import LossCurvature
from equiv_probe.landscape.curvature_products import CurvatureProducts
from equiv_probe.landscape.curvature_record import Curvature
from equiv_probe.landscape.decomposed_loss import LOSSES, Which, space_of
from equiv_probe.landscape.eigenvalue_density import EigenvalueDensity
from equiv_probe.landscape.lanczos import lanczos

from .planted_losses import OrbitMse, Quadratic, draw, linear, perceptron, with_spectrum

if TYPE_CHECKING:
    from pathlib import Path


def dense_hessian(loss: OrbitMse, which: Which) -> Tensor:
    """By torch.func, from the weights as an argument."""
    names = list(loss.parameters)
    shapes = [loss.parameters[name].shape for name in names]
    flat = torch.cat([loss.parameters[name].detach().reshape(-1) for name in names])

    def of(vector: Tensor) -> Tensor:
        parts = vector.split([math.prod(shape) for shape in shapes])
        state = {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        rotations = loss.rotations[:, :, None]
        h = torch.func.functional_call(loss.model, state, (loss.x @ rotations.mT,)) @ rotations
        return loss.of_outputs([h])[LOSSES.index(which)]

    return torch.func.hessian(of)(flat)


@pytest.mark.parametrize("which", LOSSES)
def test_products_are_those_of_the_dense_hessian(which: Which) -> None:
    loss = perceptron()
    products = CurvatureProducts(loss, space_of(loss, None))
    vector = draw(products.space.size, seed=3)
    torch.testing.assert_close(products(vector, which), dense_hessian(loss, which) @ vector, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("hold", [False, True])
def test_pieces_and_held_graphs_do_not_change_a_product(matrix: str, hold: bool) -> None:
    whole, split = perceptron(), perceptron(parts=4)
    space = space_of(whole, None)
    one = CurvatureProducts(whole, space, matrix=matrix)  # type: ignore[arg-type]
    many = CurvatureProducts(split, space_of(split, None), matrix=matrix, hold=hold)  # type: ignore[arg-type]
    assert len(many.pieces) == 4
    for seed in (0, 1):
        vector = draw(space.size, seed=seed)
        for which in LOSSES:
            torch.testing.assert_close(many(vector, which), one(vector, which), rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(many.gradient(which), one.gradient(which), rtol=1e-10, atol=1e-12)


def test_gauss_newton_is_the_covariance_of_the_jacobian_over_the_orbit() -> None:
    loss = perceptron()
    products = CurvatureProducts(loss, space_of(loss, None), matrix="gauss-newton")
    names = list(loss.parameters)
    rotations = loss.rotations[:, :, None]

    def outputs(*weights: Tensor) -> Tensor:
        state = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(loss.model, state, (loss.x @ rotations.mT,)) @ rotations

    jacobians = torch.autograd.functional.jacobian(outputs, tuple(p.detach() for p in loss.parameters.values()))
    replicates, n = loss.rotations.shape[:2]
    jacobian = torch.cat([j.flatten(5) for j in jacobians], -1).flatten(2, 4)  # (R, n, outputs, weights)
    means = jacobian.mean(1)
    within = jacobian - means[:, None]
    count = jacobian.shape[2]
    inside = torch.einsum("rnop,rnoq->pq", within, within) / (replicates * n)
    between = means - means.mean(0)
    across = torch.einsum("rop,roq->pq", between, between) / (replicates - 1)
    expected = 2 / count * (inside + across)
    vector = draw(products.space.size, seed=3)
    torch.testing.assert_close(products(vector, "equiv"), expected @ vector, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("averaged", [True, False], ids=["averaged", "identity instead"])
def test_a_linear_model_has_the_spectra_of_its_closed_form(averaged: bool) -> None:
    # f(x) = W x has the twirl tr(W)/3 x, so L_mean bends along the identity only: ‖(w + t/√3) x − y‖²/3 by 2 ‖x‖²/9.
    # And L_equiv = E ‖(W − w I) g x‖²/3 = ‖W − w I‖² ‖x‖²/9 bends along the other eight directions, by 2 ‖x‖²/9 each.
    loss = linear(averaged=averaged)
    found = ep.analysis.curvature(loss, progress=False)
    assert found.mean is not None
    assert found.equiv is not None
    x2 = float(loss.x.square().sum(-1).mean())  # E ‖x‖²
    mean, equiv = (np.array(one.densities[0].outliers) for one in (found.mean, found.equiv))
    right = (
        np.allclose(mean, [*[0.0] * 8, 2 * x2 / 9], atol=1e-9)
        and np.allclose(equiv, [0.0, *[2 * x2 / 9] * 8], atol=1e-9)
        and abs(found.equiv.condition("mass-1").value - 1) < 1e-9
        and abs(found.equiv.rank.value - 8) < 1e-9
        and abs(found.mean.rank.value - 1) < 1e-9
    )
    assert right is averaged


def test_ends_trace_and_norm_of_a_network_are_those_of_its_dense_hessian() -> None:
    loss = perceptron()
    found = ep.analysis.curvature(
        loss, exact=False, steps=4, probes=4, trace_probes=24, tolerance=1e-8, hold=True, progress=False
    )
    for which in LOSSES:
        values = torch.linalg.eigvalsh(dense_hessian(loss, which)).numpy()
        one = getattr(found, which)
        scale = np.abs(values).max()
        assert one.largest.value == pytest.approx(values[-1], abs=1e-7 * scale)
        assert one.smallest.value == pytest.approx(values[0], abs=1e-7 * scale)
        norm = (values**2).sum()
        for number, truth, size in ((one.trace, values.sum(), norm**0.5), (one.norm_squared, norm, norm)):
            assert 0 < number.stderr < 0.3 * size
            assert abs(number.value - truth) < 4 * number.stderr


def test_all_eigenvalues_on_request() -> None:
    loss = perceptron()
    found = ep.analysis.curvature(loss, exact=True, progress=False)
    for which in LOSSES:
        values = torch.linalg.eigvalsh(dense_hessian(loss, which)).numpy()
        nodes, weights = getattr(found, which).density
        np.testing.assert_allclose(nodes, values, atol=1e-10)
        np.testing.assert_allclose(weights, 1 / len(values))


def spectrum(n: int = 300) -> Tensor:
    """Three outliers, a bulk that falls off, a few negative, and a third of nothing."""
    bulk = torch.logspace(-3, 0, n - 3 - 20 - n // 3, dtype=torch.float64)
    negative = -torch.logspace(-3, -1, 20, dtype=torch.float64)
    return torch.cat([torch.tensor([40.0, 20.0, 10.0]).double(), bulk, negative, torch.zeros(n // 3).double()])


def measured(values: Tensor, seed: int, steps: int, probes: int, trace_probes: int) -> LossCurvature:
    """Of a diagonal matrix: the probes do not know in which directions its eigenvectors lie."""
    top = values.abs().argsort(descending=True)[:4]
    outer = torch.zeros(len(top), len(values), dtype=torch.float64)
    outer[torch.arange(len(top)), top] = 1
    generator = torch.Generator().manual_seed(seed)
    made = [
        lanczos(lambda v: values * v, normal(len(values), generator), steps if k < probes else 1, without=outer)
        for k in range(trace_probes)
    ]
    density = EigenvalueDensity(
        len(values),
        np.sort(values[top].numpy()),
        np.zeros(len(top)),
        float(values[top].square().sum()),
        made[:probes],
        np.array([one.quadratic for one in made]),
        np.array([one.square for one in made]),
    )
    return LossCurvature.of([density])


def normal(size: int, generator: torch.Generator) -> Tensor:
    return torch.randn(size, generator=generator, dtype=torch.float64)


PLANTED = spectrum()
TRACE, SQUARE = float(PLANTED.sum()), float(PLANTED.square().sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truth", "counts", "repetitions", "least"),
    [
        # 190 of 200 if the intervals are right; below 181 has a probability of 0.5 % for each.
        ({"trace": TRACE, "norm_squared": SQUARE, "rank": TRACE**2 / SQUARE}, (2, 2, 10), 200, 181),
        # Sixteen probes know the trace, three of them the density: with sixteen's Student t, 75 of 100 are covered.
        # 95 expected; below 89 has a probability of 0.4 %.
        ({kind: condition(kind, PLANTED.numpy(), np.ones(300)) for kind in ("weighted", "mean")}, (12, 3, 16), 100, 89),
    ],
    ids=["moments", "density"],
)
def test_numbers_of_a_planted_spectrum_lie_within_their_error_bars(
    truth: dict[str, float], counts: tuple[int, int, int], repetitions: int, least: int
) -> None:
    inside = dict.fromkeys(truth, 0)
    for seed in range(repetitions):
        found = measured(PLANTED, seed, *counts)
        for name, true in truth.items():
            estimate = getattr(found, name, None) or found.condition(name)
            inside[name] += estimate.low <= true <= estimate.high
    assert all(count >= least for count in inside.values()), inside


def test_the_density_has_the_moments_and_the_distribution_of_the_spectrum() -> None:
    values = spectrum()
    loss = Quadratic(with_spectrum(values), torch.eye(len(values), dtype=torch.float64))
    found = ep.analysis.curvature(loss, losses=("mean",), steps=40, probes=8, progress=False).mean
    assert found is not None
    nodes, weights = found.density
    assert weights.sum() == pytest.approx(1)
    for power in (1, 2, 3):
        estimate, error = found.densities[0].of(lambda x, power=power: x**power)
        assert estimate == pytest.approx(float((values**power).mean()), abs=4 * error + 1e-9)
        assert estimate == pytest.approx(weights @ nodes**power)
    # The distribution function at places between the parts of the spectrum: probes of 300 directions know it to ~2 %.
    for at in (-0.5, -0.002, 0.05, 0.5, 5.0, 15.0):
        assert weights[nodes < at].sum() == pytest.approx(float((values < at).double().mean()), abs=0.05)


@pytest.mark.parametrize(
    ("kind", "truth"),
    [
        ("mass-1", 100.0),
        ("cutoff-1e-4", 100.0),
        ("cutoff-0.505", 100 / 51),  # between two eigenvalues
        ("mean", 1 / 0.505),
        ("median", 100 / 50.5),
        ("weighted", 0.505 / 0.33835),
    ],
)
def test_condition_numbers_of_a_well_conditioned_matrix(kind: str, truth: float) -> None:
    values = torch.arange(1, 101, dtype=torch.float64)
    loss = Quadratic(with_spectrum(values), torch.eye(100, dtype=torch.float64))
    found = ep.analysis.curvature(loss, progress=False)
    assert found.mean is not None
    assert found.equiv is not None
    tolerance = 0.02 if kind == "median" else 1e-6  # it falls between eigenvalues
    assert found.mean.condition(kind).value == pytest.approx(truth, rel=tolerance)
    assert found.equiv.condition(kind).value == pytest.approx(1)
    assert found.ratio(kind).value == pytest.approx(truth, rel=tolerance)


@pytest.mark.slow
def test_ratio_of_condition_numbers_covers_the_truth() -> None:
    mean, equiv = spectrum(), torch.linspace(1, 4, 300, dtype=torch.float64)
    repetitions, inside = 100, {"weighted": 0, "mean": 0, "mass-0.9": 0}
    exact = {k: condition(k, mean.numpy(), np.ones(300)) / condition(k, equiv.numpy(), np.ones(300)) for k in inside}
    for seed in range(repetitions):
        one, other = (measured(values, seed, steps=12, probes=4, trace_probes=4) for values in (mean, equiv))
        found = Curvature.of({"mean": one, "equiv": other}, matrix="hessian", products=0, seconds=0.0)
        for kind, truth in exact.items():
            estimate = found.ratio(kind)
            inside[kind] += estimate.low <= truth <= estimate.high
    # 95 of 100 expected; below 89 has a probability of 0.4 %. A quantile jumps from
    # node to node, its error is made to be wide.
    assert inside["weighted"] >= 89, inside
    assert inside["mean"] >= 89, inside
    assert inside["mass-0.9"] >= 89, inside


def test_nothing_but_zeros_is_no_error() -> None:
    zero = torch.zeros(300, 300, dtype=torch.float64)
    found = ep.analysis.curvature(Quadratic(zero, torch.eye(300).double()), losses=("mean",), progress=False).mean
    assert found is not None
    assert (found.largest.value, found.trace.value) == (0, 0)
    assert math.isnan(found.condition("mass-0.9").value)


@pytest.mark.slow
def test_sets_of_rotations_cover_the_trace_and_bracket_the_largest_eigenvalue() -> None:
    """Noise makes extremes larger, another set's Rayleigh quotient smaller; the truth is in closed form."""
    base = linear()
    truth = 2 * float(base.x.square().sum(-1).mean()) / 9  # eight times, see above
    inside, inner, outer = 0, [], []
    for seed in range(100):
        plan = ep.RotationPlan("klein", replicates=2)
        sets = [OrbitMse(base.model, base.x, base.y, plan, seed=10 * seed + k) for k in range(4)]
        found = ep.analysis.curvature(sets, losses=("equiv",), hold=True, progress=False).equiv
        assert found is not None
        inside += found.trace.low <= 8 * truth <= found.trace.high
        inner.append(found.bracket[0])
        outer.append(found.bracket[1])
    assert inside >= 89  # 95 expected; fewer have a probability of 0.4 %
    error = np.std(outer, ddof=1) / 10
    assert np.mean(inner) < truth + 2 * error
    assert np.mean(outer) > truth + 5 * error  # by far: single sets overestimate


@pytest.mark.slow
def test_float32_agrees_with_float64() -> None:
    exact = ep.analysis.curvature(perceptron(), exact=True, progress=False)
    loss = perceptron()
    rough = OrbitMse(loss.model.float(), loss.x.float(), loss.y.float(), loss.plan, loss.seed)
    found = ep.analysis.curvature(rough, exact=True, progress=False)
    for which in LOSSES:
        assert getattr(found, which).largest.value == pytest.approx(getattr(exact, which).largest.value, rel=1e-4)


def test_attention_is_differentiated_twice() -> None:
    torch.manual_seed(0)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(3, 8).double(), nn.Linear(8, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.into(x)
            return self.out(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens))

    loss = OrbitMse(Attention(), draw(2, 4, 3, seed=1), draw(2, 4, 3, seed=2), ep.RotationPlan("klein", replicates=2))
    products = CurvatureProducts(loss, space_of(loss, None))
    vector = draw(products.space.size, seed=3)
    step = 1e-5
    space = products.space
    with space.walking() as walk:
        walk.to(step * vector)
        ahead = products.gradient("equiv")
        walk.to(-step * vector)
        behind = products.gradient("equiv")
    torch.testing.assert_close(products(vector, "equiv"), (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


def test_the_users_gradients_and_weights_are_left_alone() -> None:
    loss = perceptron()
    before = {name: value.clone() for name, value in loss.model.state_dict().items()}
    ep.analysis.curvature(loss, exact=False, steps=3, probes=2, trace_probes=2, hold=True, progress=False)
    assert all(p.grad is None for p in loss.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in loss.model.state_dict().items())


def test_a_loss_that_is_no_function_of_the_weights_is_refused() -> None:
    weights = torch.ones(3, requires_grad=True)

    def noisy() -> tuple[Tensor, Tensor, Tensor]:
        value = (weights * torch.rand(3)).square().sum()
        return value, value, value

    with pytest.raises(EquivProbeError, match="same at the same weights"):
        ep.analysis.curvature(noisy, parameters=[weights], progress=False)
    with pytest.raises(EquivProbeError, match="parameters=model"):
        ep.analysis.curvature(noisy, progress=False)
    with pytest.raises(EquivProbeError, match="outputs"):
        ep.analysis.curvature(lambda: (weights.sum(),) * 3, parameters=[weights], matrix="gauss-newton", progress=False)


def test_it_prints_and_saves_what_it_found(tmp_path: Path) -> None:
    found = ep.analysis.curvature([linear(0), linear(0)], progress=False)
    text = str(found)
    assert "9 parameters" in text
    assert "condition number, weighted" in text
    found.save(tmp_path / "curvature.json")
    stored = json.loads((tmp_path / "curvature.json").read_text())
    assert stored["equiv"]["rank"]["value"] == pytest.approx(8)
    assert stored["condition_ratio"]["weighted"]["value"] == pytest.approx(1)
    found.save(tmp_path / "density.csv")
    rows = (tmp_path / "density.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 18
    with pytest.raises(EquivProbeError, match=r"suffix '\.txt'.*\.json, .*\.html"):
        found.save(tmp_path / "x.txt")


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same() -> None:
    loss, there = perceptron(), perceptron()
    there = OrbitMse(there.model.cuda(), there.x.cuda(), there.y.cuda(), there.plan, there.seed)
    here, cuda = (ep.analysis.curvature(one, exact=False, progress=False) for one in (loss, there))
    for which in LOSSES:
        for name in ("largest", "smallest", "trace"):
            expected = getattr(getattr(here, which), name).value
            scale = getattr(here, which).largest.value
            assert getattr(getattr(cuda, which), name).value == pytest.approx(expected, abs=1e-6 * scale)


@pytest.mark.parametrize(("noise", "broken"), [(1e-3, 0.0), (1e-3, 1e-3), (0.0, 1e-3), (0.0, 0.0)])
def test_noise_that_is_all_of_a_small_part_is_refused(noise: float, broken: float) -> None:
    """A sound model whose noise is 1e-4 of its outputs: L_equiv is that noise, and next to nothing of the loss."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 5, 3, generator=generator)
    weight = nn.Parameter(torch.ones(2))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, pos: Tensor) -> Tensor:
            apart = torch.cdist(pos, pos).sum((1, 2)) * self.weight[0]
            off = broken * (pos - pos.mean(1, keepdim=True))[..., 2].square().sum(1) * self.weight[1]
            return apart + off + noise * torch.randn(len(pos), generator=generator)

    loss = ep.analysis.OrbitLoss(Net(), x, torch.zeros(8), ep.Schema({"pos": ep.point}, {"0": ep.scalar}))
    if noise:
        with pytest.raises(EquivProbeError, match="same at the same weights"):
            ep.analysis.curvature(loss, steps=2, trace_probes=2, progress=False)
    else:
        assert ep.analysis.curvature(loss, steps=2, trace_probes=2, progress=False).losses
