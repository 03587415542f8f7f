"""Orbit losses and penalties on batches of graphs of unequal size: closed forms, and the same dropout for all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import global_add_pool, global_mean_pool

import equiv_probe as ep
from equiv_probe.rotations.haar import haar

SIZES = (1, 2, 5, 9)
EYE = torch.eye(3, dtype=torch.float64)
SCHEMA = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector, "energy": ep.scalar})


class Quadratic(nn.Module):
    """Forces ``W x`` and the energy ``Σ (v·x)²`` of a graph, both about its centroid."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.matrix, self.along = nn.Parameter(drawn(3, 3, seed=0)), nn.Parameter(drawn(3, seed=5))
        self.dropout = nn.Dropout(dropout)

    def forward(self, data: Any) -> dict[str, Tensor]:
        x = data.pos - global_mean_pool(data.pos, data.batch)[data.batch]
        kept = self.dropout(torch.ones_like(x[:, :1]))
        energy = global_add_pool((x @ self.along).square(), data.batch)
        return {"forces": kept * x @ self.matrix.T, "energy": energy}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graphs(sizes: tuple[int, ...] = SIZES, seed: int = 1) -> Any:
    made = [
        Data(pos=drawn(n, 3, seed=10 * seed + n), y=drawn(1, seed=n), force=drawn(n, 3, seed=n + 77)) for n in sizes
    ]
    return Batch.from_data_list(made)


def closed_forms(matrix: Tensor, along: Tensor, batches: list[Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """``L_mean`` and ``L_equiv`` by output: means over all atoms and components, and over all graphs.

    The energy is ``vᵀ S v``; what rotations average away is its traceless part T, whose square has the mean
    ``2/15 ‖v‖⁴ ‖T‖²``.
    """
    centred = [b.pos - global_mean_pool(b.pos, b.batch)[b.batch] for b in batches]
    x, force, third = torch.cat(centred), torch.cat([b.force for b in batches]), matrix.trace() / 3
    of_forces = (third * x - force).square().mean(), (matrix.square().sum() / 3 - third**2) * x.square().mean()
    means, equivs = [], []
    for b, inside in zip(batches, centred, strict=True):
        for k in range(b.num_graphs):
            moment, size = inside[b.batch == k].mT @ inside[b.batch == k], along @ along
            means.append((size * moment.trace() / 3 - b.y[k]) ** 2)
            equivs.append(2 / 15 * size**2 * (moment - moment.trace() / 3 * EYE).square().sum())
    return {"forces": of_forces, "energy": (torch.stack(means).mean(), torch.stack(equivs).mean())}


def test_unequal_batches_are_one_loss() -> None:
    model, batches = Quadratic(), [graphs(), graphs(seed=2), graphs((7,), seed=3)]
    plan = ep.RotationPlan("icosahedral", replicates=2)  # an energy of degree 2, squared: exact
    loss = ep.analysis.OrbitLoss(
        model, batches, {"forces": "force", "energy": "y"}, SCHEMA, plan, coefficients={"energy": 0.1}
    )
    found, given = loss(), [model.matrix, model.along]
    exact = closed_forms(*given, batches)
    for value, k in ((found.mean, 0), (found.equiv, 1)):
        wanted = exact["forces"][k] + 0.1 * exact["energy"][k]
        torch.testing.assert_close(value, wanted)
        torch.testing.assert_close(
            torch.autograd.grad(value, given, retain_graph=True),
            torch.autograd.grad(wanted, given, retain_graph=True),
        )


@pytest.mark.parametrize("graph", [True, False])
def test_all_rotations_have_the_same_dropout(graph: bool) -> None:
    """Forces ``m x`` with a mask m are equivariant: masks that differ would pass for broken symmetry."""
    model, batch = Quadratic(0.5).train(), graphs()
    with torch.no_grad():
        model.matrix.copy_(EYE)
    loss = ep.analysis.OrbitLoss(model, batch, {"forces": "force"}, SCHEMA, ep.RotationPlan("haar", replicates=4))
    with torch.set_grad_enabled(graph):
        found = loss()
    assert abs(found.equiv.item()) < 1e-20
    kept = (found.total.detach() - closed_forms(EYE, model.along.detach(), [batch])["forces"][0]).abs()
    assert kept > 0.1  # the mask is there


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("output", ["forces", "energy"])
def test_the_penalty_and_its_gradient_are_unbiased(output: str, reuse: bool) -> None:
    model, batch = Quadratic(), graphs()
    penalty = ep.EquivariancePenalty(model, SCHEMA, outputs=[output])
    given = model.matrix if output == "forces" else model.along
    rows = []
    for seed in range(150):
        generator, rotated, prediction = torch.Generator().manual_seed(seed), batch.clone(), None
        if reuse:
            rotated.pos = torch.einsum("nij,nj->ni", haar(len(SIZES), generator)[batch.batch], batch.pos)
            prediction = model(rotated)
        value = penalty(rotated, generator=generator, prediction=prediction)
        rows.append(torch.cat([value.detach()[None], torch.autograd.grad(value, given)[0].flatten()]))
    wanted = closed_forms(model.matrix, model.along, [batch])[output][1]
    expected = torch.cat([wanted.detach()[None], torch.autograd.grad(wanted, given)[0].flatten()])
    table = torch.stack(rows)
    stderr = table.std(0) / math.sqrt(len(table))
    assert ((table.mean(0) - expected).abs() <= 4 * stderr).all()
    assert stderr[0] < 0.1 * expected[0]  # so that without the half, or with one rotation for both, it would fail
