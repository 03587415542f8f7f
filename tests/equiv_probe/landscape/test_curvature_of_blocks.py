"""Curvature of a block of weights: which weights, all eigenvalues, and which of them are more than rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.curvature_products import CurvatureProducts
from equiv_probe.landscape.decomposed_loss import LOSSES, space_of
from equiv_probe.landscape.eigenvalues import dense

from .planted_losses import OrbitMse, Quadratic, draw, linear, perceptron, with_spectrum
from .test_curvature import dense_hessian

MEAN = [100.0, 10.0, 1.0, 0.01, 0.0, -2.0]
EQUIV = [5.0, 4.0, 3.0, 2.0, 0.5, 0.0]


def planted(seed: int = 0) -> Quadratic:
    """Hessians with these eigenvalues in random directions."""
    first, second = (with_spectrum(torch.tensor(v, dtype=torch.float64), seed + k) for k, v in enumerate((MEAN, EQUIV)))
    return Quadratic(first, second)


@pytest.mark.parametrize("seed", [0, 1])
def test_both_condition_numbers_of_planted_quadratics_are_recovered(seed: int) -> None:
    found = ep.analysis.curvature(planted(seed), progress=False)
    assert found.mean is not None
    assert found.equiv is not None
    for one, largest, smallest in ((found.mean, 100, 0.01), (found.equiv, 5, 0.5)):
        assert one.largest.value == pytest.approx(largest, rel=1e-9)
        assert one.smallest_positive.value == pytest.approx(smallest, rel=1e-9)
        assert one.condition("positive").value == pytest.approx(largest / smallest, rel=1e-9)
        assert one.whole.null == 1
        assert one.whole.floor < 1e-12 * largest
    assert found.mean.smallest.value == pytest.approx(-2, rel=1e-9)
    assert found.ratio("positive").value == pytest.approx(1e4 / 10, rel=1e-8)
    assert "condition number, positive" in str(found)


@pytest.mark.parametrize("averaged", [True, False], ids=["averaged", "identity instead"])
def test_a_linear_model_bends_in_one_direction_or_in_all_others(averaged: bool) -> None:
    # L_mean along the identity alone, L_equiv along the other eight, alike (see test_curvature).
    found = ep.analysis.curvature(linear(averaged=averaged), losses=("mean", "equiv"), progress=False)
    assert found.mean is not None
    assert found.equiv is not None
    counts = found.mean.whole.null, found.equiv.whole.null
    assert (counts == (8, 1)) is averaged
    if averaged:
        assert found.equiv.condition("positive").value == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("2", ["2.weight", "2.bias"]),
        ("2.*", ["2.weight", "2.bias"]),
        (["0.weight", "4"], ["0.weight", "4.weight", "4.bias"]),
        ("*.bias", ["0.bias", "2.bias", "4.bias"]),
    ],
)
def test_a_block_has_the_spectrum_of_its_part_of_the_hessian(chosen: Any, names: list[str]) -> None:
    loss = perceptron()
    places, start = [], 0
    for name, p in loss.parameters.items():
        places += list(range(start, start + p.numel())) if name in names else []
        start += p.numel()
    found = ep.analysis.curvature(loss, parameters=chosen, progress=False)
    for which in LOSSES:
        values = torch.linalg.eigvalsh(dense_hessian(loss, which)[places][:, places]).numpy()
        one = getattr(found, which)
        assert one.size == len(places)
        np.testing.assert_allclose(one.eigenvalues[0], values, atol=1e-10 * np.abs(values).max())
        above = values[values > one.whole.floor]
        assert one.condition("positive").value == pytest.approx(above[-1] / above[0], rel=1e-6)


def test_a_block_is_also_a_module_a_parameter_or_a_mapping() -> None:
    loss = perceptron()
    named = space_of(loss, "2")
    for same in (loss.model[2], [loss.model[2].weight, loss.model[2].bias], dict(loss.model[2].named_parameters())):
        space = space_of(loss, same)
        assert [id(p) for p in space.tensors] == [id(p) for p in named.tensors]
    assert space_of(loss, loss.model[2]).names == ["2.weight", "2.bias"]  # as the loss calls them
    assert space_of(loss, ["2", loss.model[2].weight]).size == named.size  # each once


@pytest.mark.parametrize(("pattern", "fix"), [("2.wieght", "2.weight"), ("layers.7", None)])
def test_a_name_that_fits_nothing_is_an_error(pattern: str, fix: str | None) -> None:
    with pytest.raises(EquivProbeError, match="fits none of the loss's weights") as caught:
        ep.analysis.curvature(perceptron(), parameters=pattern, progress=False)
    assert (f"parameters={fix!r}" in str(caught.value)) is (fix is not None)


@pytest.mark.parametrize("which", LOSSES)
@pytest.mark.parametrize("parts", [1, 4])
def test_a_whole_matrix_is_what_its_products_are(which: Any, parts: int) -> None:
    loss = perceptron(width=8, parts=parts)  # 131 weights, some rows more than a few at once
    products = CurvatureProducts(loss, space_of(loss, None))
    rows = products.whole(which)
    torch.testing.assert_close(rows, dense_hessian(loss, which), rtol=1e-10, atol=1e-12)
    assert products.count == len(rows)


class Cubed(torch.autograd.Function):
    """Twice differentiable, and without a rule for batches of vectors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if torch._C._functorch.is_batchedtensor(slope):
            raise RuntimeError("no batching rule")
        return 3 * x**2 * slope


def test_an_operation_that_takes_no_batches_of_vectors_is_multiplied_one_by_one() -> None:
    weights = draw(40).requires_grad_()
    matrix = draw(40, 40, seed=2)

    def loss() -> tuple[Tensor, Tensor, Tensor]:
        value = Cubed.apply(matrix @ weights).sum()
        return 2 * value, value, value

    rows = CurvatureProducts(loss, space_of(loss, [weights])).whole("mean")
    expected = matrix.mT @ torch.diag(6 * (matrix @ weights.detach())) @ matrix
    torch.testing.assert_close(rows, expected, rtol=1e-10, atol=1e-10)


def test_in_single_precision_what_is_rounding_is_no_smallest_eigenvalue() -> None:
    values = torch.logspace(0, -12, 30, dtype=torch.float64)
    double = Quadratic(with_spectrum(values), with_spectrum(values, 1))
    single = Quadratic(double.mean.float(), double.equiv.float())
    single.weights = double.weights.detach().float().requires_grad_()
    single.parameters = {"weights": single.weights}
    exact, rough = (ep.analysis.curvature(one, losses=("mean",), progress=False).mean for one in (double, single))
    assert exact is not None
    assert rough is not None
    assert exact.condition("positive").value == pytest.approx(1e12, rel=0.01)
    assert exact.whole.null == 0
    eps = torch.finfo(torch.float32).eps
    assert rough.condition("positive").value < 1 / eps
    assert rough.whole.null >= int((values < eps).sum())


@pytest.mark.parametrize("seed", range(4))
def test_noise_of_the_rows_is_the_floor(seed: int) -> None:
    # Rows with independent noise: the antisymmetric part is as large as what is wrong with the symmetric one.
    n, size = 120, 1e-3
    true = with_spectrum(torch.linspace(0, 1, n, dtype=torch.float64) ** 6, seed)
    noise = size * draw(n, n, seed=seed + 9)
    pairs = dense(true + noise, 2e-16)
    wrong = float(torch.linalg.matrix_norm((noise + noise.mT) / 2, 2))
    assert pairs.floor == pytest.approx(wrong, rel=0.25)
    exact = torch.linalg.eigvalsh(true).numpy()
    assert np.abs(pairs.values - exact).max() < 1.3 * pairs.floor
    assert dense(true, 2e-16).floor < 1e-14


def test_a_thousand_weights_are_diagonalised_and_more_than_three_thousand_are_not() -> None:
    torch.manual_seed(0)
    x = draw(2, 3, 3)
    for width, exact in ((140, True), (440, False)):
        model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3)).double()
        loss = OrbitMse(model, x, 0.5 * x, ep.RotationPlan("klein", replicates=2))
        found = ep.analysis.curvature(
            loss, losses=("mean",), top=1, probes=2, steps=3, trace_probes=2, tolerance=0.1, progress=False
        ).mean
        assert found is not None
        assert found.size == 7 * width + 3
        assert math.isfinite(found.smallest_positive.value) is exact
        assert ("positive" in found.conditions) is exact


def test_a_file_of_before_is_read_and_a_new_one_comes_back(tmp_path: Any) -> None:
    found = ep.analysis.curvature(planted(), progress=False)
    found.save(tmp_path / "new.json")
    assert ep.load(tmp_path / "new.json") == found
    stored = found.to_dict()
    del stored["condition_ratio"]["positive"]
    for name in LOSSES:
        del stored[name]["condition"]["positive"]
        del stored[name]["whole"]
    old = ep.analysis.Curvature.from_dict(stored)
    assert old.mean is not None
    assert math.isnan(old.mean.smallest_positive.value)
    assert "whole" not in old.to_dict()["mean"]  # and so it is stored as it was
    assert old.ratio("weighted").value == found.ratio("weighted").value
