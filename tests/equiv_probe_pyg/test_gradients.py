"""Gradients of both losses and the penalty on PyG's own batches, against closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe_pyg import attach

from .graph_models import batch_of
from .test_attach import Linear, centred, closed_form

SCHEMA = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})


class Forces(Linear):
    """The forces of `Linear` alone."""

    def __init__(self) -> None:
        super().__init__("tensor")


def equiv_of(matrix: Tensor, data: Any) -> Tensor:
    """``L_equiv`` as a function of the matrix."""
    x = centred(data)
    return (matrix.square().sum() / 3 - matrix.trace().square() / 9) * x.square().sum() / x.numel()


def mean_of(matrix: Tensor, data: Any) -> Tensor:
    """``L_mean`` likewise."""
    return (matrix.trace() / 3 * centred(data) - data.force).square().mean()


def slope(function: Any, model: Linear, data: Any) -> Tensor:
    matrix = model.matrix.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(function(matrix, data), matrix)
    return found


def test_the_decomposed_loss_of_a_batch_of_graphs_and_its_gradients() -> None:
    model, batch = Forces(), batch_of()
    plan = ep.RotationPlan("tetrahedral", 4, seed=1)
    loss = ep.analysis.OrbitLoss(model, batch, {"forces": batch.force}, SCHEMA, plan)
    _, mean, equiv = loss()
    torch.testing.assert_close((mean.item(), equiv.item()), closed_form(model, batch))
    for value, function in ((mean, mean_of), (equiv, equiv_of)):
        (found,) = torch.autograd.grad(value, model.matrix, retain_graph=True)
        torch.testing.assert_close(found, slope(function, model, batch))
    found = ep.analysis.gradients(loss)
    torch.testing.assert_close(
        found.ratio.value, float(slope(equiv_of, model, batch).norm() / slope(mean_of, model, batch).norm())
    )


@pytest.mark.slow
def test_a_probe_on_a_loop_over_graphs_measures_gradients_and_leaves_those_of_the_loop() -> None:
    model, batch = Forces(), batch_of()
    plan = ep.RotationPlan("tetrahedral", 4, seed=1)  # exact for forces that are linear
    plain = slope(lambda matrix, data: (centred(data) @ matrix.T - data.force).square().mean(), model, batch)
    with attach(model, {"forces": ep.vector}, {"forces": "force"}, every=1, gradients=1, light=plan) as probe:
        (model(batch) - batch.force).square().mean().backward()
        torch.testing.assert_close(model.matrix.grad, plain)
        model.matrix.grad = None
        probe.step(lambda: (model(batch) - batch.force).square().mean()).backward()
    torch.testing.assert_close(model.matrix.grad, plain)
    found = probe.compute()
    norms = [float(slope(function, model, batch).norm()) for function in (mean_of, equiv_of)]
    measured = [found[f"equiv/train/loss/grad_norm_L_{name}"] for name in ("mean", "equiv")]
    torch.testing.assert_close(measured, norms)


@pytest.mark.slow
def test_the_penalty_of_graphs_is_unbiased_and_so_is_its_gradient() -> None:
    """400 draws: the mean of each number is within four of its standard errors."""
    model, batch = Forces(), batch_of()
    generator = torch.Generator().manual_seed(0)
    penalty = ep.EquivariancePenalty(model, SCHEMA)
    rows = []
    for _ in range(400):
        value = penalty(batch, generator=generator)
        (gradient,) = torch.autograd.grad(value, model.matrix)
        rows.append(torch.cat([value.detach()[None], gradient.flatten()]))
    drawn = torch.stack(rows)
    exact = torch.cat([equiv_of(model.matrix.detach(), batch)[None], slope(equiv_of, model, batch).flatten()])
    off = (drawn.mean(0) - exact) / (drawn.std(0) / len(drawn) ** 0.5)
    assert off.abs().max() < 4
    # The test tells: the loss of the model as it is, without a second rotation, is far from it.
    assert (drawn.mean(0)[0] - (centred(batch) @ model.matrix.detach().T).square().mean()).abs() > 0.1 * exact[0]
