"""Curvature and lines of :class:`equiv_probe.analysis.OrbitLoss`: a model, its data and a plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.curvature_products import CurvatureProducts
from equiv_probe.landscape.decomposed_loss import LOSSES, space_of

from .planted_losses import SCHEMA, Linear, OrbitMse, draw, perceptron


def pair(replicates: int = 2, **how: int) -> tuple[OrbitMse, ep.analysis.OrbitLoss]:
    """The same loss twice: by the planted formula, and by the package."""
    planted = perceptron()
    planted.plan = ep.RotationPlan("tetrahedral", replicates=replicates)
    orbit = ep.analysis.OrbitLoss(planted.model, planted.x, planted.y, SCHEMA, planted.plan, center="origin", **how)
    planted.rotations = planted.plan.rotations()
    return planted, orbit


@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("hold", [False, True])
def test_products_are_those_of_the_planted_formula(matrix: str, hold: bool) -> None:
    planted, orbit = pair(chunk=3)
    space = space_of(orbit, None)
    vector = draw(space.size, seed=2)
    expected = CurvatureProducts(planted, space_of(planted, None), matrix=matrix)  # type: ignore[arg-type]
    found = CurvatureProducts(orbit, space, matrix=matrix, hold=hold)  # type: ignore[arg-type]
    assert len(found.pieces) == 2
    for which in LOSSES:
        torch.testing.assert_close(found(vector, which), expected(vector, which), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found.gradient(which), expected.gradient(which), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
def test_blocks_of_rotations_are_sets_for_error_bars(matrix: str) -> None:
    x = draw(6, 5, 3, seed=0)
    plan = ep.RotationPlan("octahedral", replicates=4)
    loss = ep.analysis.OrbitLoss(Linear(draw(3, 3, seed=1)), x, 2 * x, SCHEMA, plan, center="origin")
    found = ep.analysis.curvature(loss.blocks(2), matrix=matrix, progress=False)  # type: ignore[arg-type]
    assert found.equiv is not None
    x2 = float(x.square().sum(-1).mean())
    # The octahedral group averages matrices exactly, so the two sets agree; see the closed form in test_curvature.
    np.testing.assert_allclose(found.equiv.densities[0].outliers, [0.0, *[2 * x2 / 9] * 8], atol=1e-9)
    assert found.equiv.largest.stderr < 1e-9
    assert found.notes == ()
    assert "averaged" not in str(found)


def test_a_line_has_errors_over_structures() -> None:
    planted, orbit = pair()
    line = ep.analysis.along_line(orbit, steps=[-0.1, 0.2], blocks="structures", progress=False)
    assert line.samples.shape == (3, 4, 3)
    assert line.equiv[line.origin] == pytest.approx(planted()[2].item(), rel=1e-9)
    each = np.array([piece().equiv.item() * 4 for piece in orbit.pieces(1)])
    assert line.stderr("equiv")[line.origin] == pytest.approx(each.std(ddof=1) / 2, rel=1e-9)


def test_a_users_own_step_has_a_hessian_and_no_outputs() -> None:
    planted, orbit = pair()
    model, x, y = planted.model, planted.x, planted.y
    step = ep.analysis.OrbitLoss.of_step(
        model,
        lambda: (model(x) - y).square().mean(),
        planted.plan,
        schema=ep.Schema(inputs={"input": ep.vector}, outputs={"output": ep.vector}),
        center="origin",
    )
    vector = draw(space_of(orbit, None).size, seed=2)
    own = CurvatureProducts(step, space_of(step, planted.model))
    theirs = CurvatureProducts(orbit, space_of(orbit, None))
    for which in LOSSES:
        torch.testing.assert_close(own(vector, which), theirs(vector, which), rtol=1e-8, atol=1e-10)
    with pytest.raises(EquivProbeError, match="user's own step"):
        ep.analysis.curvature(step, matrix="gauss-newton", progress=False)


def test_forces_that_are_derivatives_have_curvature() -> None:
    class Conservative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.energy = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

        def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            x = inputs["pos"].detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
            return {"forces": -slope}

    x = draw(2, 3, 3, seed=4)
    model = Conservative()
    plan = ep.RotationPlan("klein", replicates=2)
    loss = ep.analysis.OrbitLoss(model, {"pos": x}, {"forces": -x}, SCHEMA, plan, center="origin")
    products = CurvatureProducts(loss, space_of(loss, None))
    vector, step = draw(products.space.size, seed=3), 1e-5
    slopes = []
    with products.space.walking() as walk:
        for sign in (1, -1):
            walk.to(sign * step * vector)
            slopes.append(products.gradient("mean"))
    numerical = (slopes[0] - slopes[1]) / (2 * step)
    torch.testing.assert_close(products(vector, "mean"), numerical, rtol=1e-6, atol=1e-8)


def test_dropout_is_no_noise_for_a_fixed_loss() -> None:
    """The package's loss draws the same masks each time: it is a function of the weights even in training mode."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3)).double().train()
    x = draw(2, 3, 3, seed=4)
    loss = ep.analysis.OrbitLoss(model, x, x, SCHEMA, ep.RotationPlan("klein", replicates=2), center="origin")
    found = ep.analysis.curvature(loss, losses=("equiv",), progress=False).equiv
    assert found is not None
    assert math.isfinite(found.largest.value)
