"""Models without second derivatives are refused, or noted where PyTorch itself does not know; and rounding is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.eigenvalues import extreme

from .planted_losses import SCHEMA, OrbitMse, Quadratic, draw, perceptron, with_spectrum


class Once(torch.autograd.Function):
    """A sine whose derivative has none."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * ctx.saved_tensors[0].cos()


class Unseen(torch.autograd.Function):
    """The same, and PyTorch is not told."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.slope = z.detach().cos()
        return z.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * ctx.slope


class Sine(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.layer = function, nn.Linear(3, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return z * torch.cdist(z, z).sum(-1, keepdim=True)


def of(model: nn.Module) -> OrbitMse:
    return OrbitMse(model, draw(2, 4, 3, seed=1), draw(2, 4, 3, seed=2), ep.RotationPlan("klein", replicates=2))


@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("model", [Sine(Once.apply), Distances()], ids=["once_differentiable", "cdist"])
def test_a_model_without_second_derivatives_is_refused(model: nn.Module, hold: bool, matrix: Any) -> None:
    with pytest.raises(EquivProbeError, match="a model that can be differentiated twice"):
        ep.analysis.curvature(of(model), matrix=matrix, hold=hold, progress=False)


def test_products_that_lack_what_pytorch_does_not_know_of_are_noted() -> None:
    lacking, whole = (ep.analysis.curvature(of(Sine(f)), progress=False) for f in (Unseen.apply, torch.sin))
    assert any("differ from differences of gradients" in note for note in lacking.notes)
    assert not any("differences" in note for note in whole.notes)
    assert lacking.total is not None
    assert whole.total is not None
    assert lacking.total.trace.value != pytest.approx(whole.total.trace.value, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_smooth_networks_give_no_such_note(seed: int, dtype: torch.dtype) -> None:
    loss = perceptron(seed)
    loss = OrbitMse(loss.model.to(dtype), loss.x.to(dtype), loss.y.to(dtype), loss.plan)
    before = {name: value.clone() for name, value in loss.model.state_dict().items()}
    notes = ep.analysis.curvature(loss, exact=False, steps=2, probes=2, trace_probes=2, progress=False).notes
    assert [note for note in notes if "one set of rotations" not in note] == []
    assert all(torch.equal(value, before[name]) for name, value in loss.model.state_dict().items())


class Radial(nn.Module):
    """Equivariant whatever its weights, but for ``bias``."""

    def __init__(self, bias: float, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
        self.bias = torch.full((3,), bias)
        self.to(dtype)
        self.bias = self.bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x.square().sum(-1, keepdim=True)) * (1 + x @ self.bias)[..., None]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_equivariant_model_s_curvature_is_said_to_be_rounding(dtype: torch.dtype) -> None:
    for bias in (0.0, 0.1):
        x = draw(4, 5, 3, seed=1).to(dtype)
        loss = ep.analysis.OrbitLoss(Radial(bias, dtype), x, 2 * x, SCHEMA, ep.RotationPlan("klein", replicates=2))
        notes = ep.analysis.curvature(loss, progress=False).notes
        assert any("within rounding" in note for note in notes) is (bias == 0)


def test_without_labels_there_is_the_curvature_of_equiv_alone() -> None:
    x, w = draw(6, 5, 3, seed=0), draw(3, 3, seed=1)
    model = nn.Linear(3, 3, bias=False).double()
    model.weight.data.copy_(w)
    plan = ep.RotationPlan("octahedral", replicates=2)
    loss = ep.analysis.OrbitLoss(model, x, None, SCHEMA, plan, center="origin")
    found = ep.analysis.curvature(loss, losses=("equiv",), progress=False).equiv
    assert found is not None
    x2 = float(x.square().sum(-1).mean())  # eight directions bend by 2 ‖x‖²/9, see test_curvature
    np.testing.assert_allclose(found.densities[0].outliers, [0.0, *[2 * x2 / 9] * 8], atol=1e-9)
    with pytest.raises(EquivProbeError, match=r'losses=\("equiv",\)'):
        ep.analysis.curvature(loss, progress=False)


def test_a_crowd_at_the_end_of_the_spectrum_stops_the_solver_and_is_said() -> None:
    values = torch.linspace(1, 2, 4000, dtype=torch.float64)
    found = extreme(lambda v: values * v, draw(4000, seed=0), 4, 1e-13)
    assert not found.converged
    assert found.values[-1] == pytest.approx(2, abs=1e-3)
    assert found.values[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_weight_and_a_few_have_their_curvature(n: int) -> None:
    values = torch.arange(1, n + 1, dtype=torch.float64)
    loss = Quadratic(with_spectrum(values), torch.eye(n, dtype=torch.float64))
    found = ep.analysis.curvature(loss, exact=False, progress=False).mean
    assert found is not None
    assert (found.smallest.value, found.largest.value) == pytest.approx((1, n))
    assert found.trace.value == pytest.approx(n * (n + 1) / 2)
    with pytest.raises(EquivProbeError, match="top=0"):
        ep.analysis.curvature(loss, top=0, progress=False)
