"""Networks made of PyG's own layers: equivariant ones read at the floor, the others clearly do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import models as pyg_models
from torch_geometric.nn.models import visnet
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE

import equiv_probe as ep
from equiv_probe.rotations.drawing import RotationSource

from .graph_models import (
    Complex,
    Equivariant,
    GraphTransformer,
    Interactions,
    PointNet,
    PointTransformer,
    batch_of,
    heteros,
    schnet,
)

PLAN = ep.RotationPlan("tetrahedral", 4)
FLOOR = 1e-12
"""Relative: float64 rounding of a few layers, far below what any symmetry that is broken by design shows."""


def relative(model: nn.Module, *args: Any, schema: ep.Schema | None = None) -> dict[str, float]:
    """``sqrt(L_equiv)`` of each output in units of its size."""
    raw = model.eval()(*args)
    with ep.Probe(model, schema, PLAN, full=1, budget=None) as probe:
        model(*args)
    assert not probe.failures
    found = {n: r.everything.equiv.value for (_, n), r in probe.running.items()}
    named = raw if isinstance(raw, dict) else dict(enumerate(raw if isinstance(raw, tuple) else [raw]))
    sizes = {str(name): float(value.detach().abs().max()) for name, value in named.items()}
    return {name: abs(value) ** 0.5 / sizes[name] for name, value in found.items()}


def double(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():  # layers of the size of one, so that nothing hides behind a small output
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
    return model.double()


def test_schnet_reads_at_the_floor() -> None:
    batch = batch_of()
    found = relative(schnet().double(), batch.z, batch.pos, batch.batch)
    assert list(found) == ["0"]
    assert found["0"] < FLOOR


def test_schnet_with_a_slip_does_not() -> None:
    """Negative control: neighbours by a box instead of a ball."""

    class Box(Interactions):
        def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
            edges, distances = super().forward(pos, batch)
            near = (pos[edges[0]] - pos[edges[1]]).abs().amax(-1) < 2
            return edges[:, near], distances[near]

    model, batch = schnet().double(), batch_of()
    model.interaction_graph = Box()
    assert relative(model, batch.z, batch.pos, batch.batch)["0"] > 1e-4


def test_an_egnn_type_layer_reads_at_the_floor() -> None:
    batch = batch_of()
    found = relative(double(Equivariant()), batch.z, batch.pos, batch.edge_index, batch.batch)
    assert found["0"] < FLOOR
    assert found["1"] < FLOOR, "vectors"
    as_scalars = ep.Schema({"pos": ep.point}, {"0": ep.scalar, "1": ep.scalar}, batch="batch")
    args = batch.z, batch.pos, batch.edge_index, batch.batch
    assert relative(double(Equivariant()), *args, schema=as_scalars)["1"] > 0.05, "its forces do rotate"


def test_networks_on_positions_are_broken() -> None:
    batch = batch_of()
    found = relative(double(GraphTransformer()), batch)
    assert found["energy"] > 1e-2
    assert found["forces"] > 1e-2
    assert relative(double(PointNet()), batch.pos, batch.edge_index, batch.batch)["0"] > 1e-2
    assert relative(double(PointTransformer()), batch)["0"] > 1e-2
    assert relative(Complex(), heteros())["ligand"] > 1e-2


class Periodic(nn.Module):
    """Energies and forces of periodic images from edges with shifts; ``tilt`` breaks it."""

    def __init__(self, tilt: float) -> None:
        super().__init__()
        self.tilt = tilt

    def forward(self, data: Any) -> dict[str, Tensor]:
        pos = data.pos.requires_grad_() if not data.pos.requires_grad else data.pos
        i, j = data.edge_index
        arrows = pos[j] - pos[i] + data.edge_shift
        pairs = torch.exp(-0.1 * arrows.square().sum(-1)) + self.tilt * torch.sin(arrows[:, 0])
        energy = torch.zeros(data.num_graphs, dtype=pos.dtype).index_add(0, data.batch[i], pairs)
        energy = energy + 1e-3 * torch.linalg.det(data.cell.reshape(-1, 3, 3)).abs()
        (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=self.training)
        return {"energy": energy, "forces": -gradient}


@pytest.mark.parametrize("tilt", [0.0, 0.1])
def test_periodic_images_and_forces_by_autograd(tilt: float) -> None:
    batch = batch_of()
    found = relative(Periodic(tilt), batch)
    assert set(found) == {"energy", "forces"}
    for value in found.values():
        assert (value < FLOOR) == (tilt == 0)
    assert tilt == 0 or found["forces"] > 1e-2


def test_counts_of_images_do_not_rotate_and_shifts_do() -> None:
    batch = batch_of()
    for left_behind in ("edge_shift", "cell"):
        schema = ep.Schema(
            {"pos": ep.point, **{n: ep.vector for n in ("edge_shift", "cell") if n != left_behind}},
            {"energy": ep.scalar, "forces": ep.vector},
        )
        found = relative(Periodic(0.0), batch, schema=schema)
        assert (found["energy"] > 1e-3) == (left_behind == "edge_shift"), "a volume does not rotate, an arrow does"
    counts = batch_of()
    counts.edge_shift = counts.images.double()
    with pytest.raises(ep.EquivProbeError, match="counts of images"):
        relative(Periodic(0.0), counts)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False])
def test_forces_as_gradients_inside_the_model_or_in_the_users_step(inside: bool) -> None:
    torch.manual_seed(0)

    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = double(PointNet())

        def forward(self, data: Any) -> Any:
            if inside:
                data.pos.requires_grad_()
            energy = self.net(data.pos, data.edge_index, data.batch)[:, 0]
            if not inside:
                return energy
            (gradient,) = torch.autograd.grad(energy.sum(), data.pos, create_graph=self.training)
            return {"energy": energy, "forces": -gradient}

    model = Energy().train()

    def step() -> Tensor:
        batch = batch_of()
        if inside:
            return (model(batch)["forces"] - batch.force).square().mean()
        batch.pos.requires_grad_()
        (gradient,) = torch.autograd.grad(model(batch).sum(), batch.pos, create_graph=True)
        return (-gradient - batch.force).square().mean()

    plan = ep.RotationPlan("klein", 3)
    torch.manual_seed(1)
    found = ep.Probe(model, seed=4).replay(step, plan, per_structure=False)
    # The loss is on rotated positions and rotated labels, written out.
    losses = []
    generator = RotationSource(4).generator(torch.device("cpu"))
    for g in plan.rotations(generator).flatten(0, 1):
        batch = batch_of()
        centre = torch.stack([batch.pos[batch.batch == b].mean(0) for b in range(4)])[batch.batch]
        pos = ((batch.pos - centre) @ g.mT + centre).requires_grad_()
        energy = model.net(pos, batch.edge_index, batch.batch)
        (gradient,) = torch.autograd.grad(energy.sum(), pos)
        losses.append((-gradient - batch.force @ g.mT).square().mean())
    assert found.total == pytest.approx(float(torch.stack(losses).mean()), rel=1e-9)
    assert found.equiv > 0.01 * found.total


def test_plain_tensors_in_a_box_of_whole_numbers_are_no_counts() -> None:
    batch = batch_of()
    batch.edge_shift = 9.0 * batch.images.double()
    assert "energy" in relative(Periodic(0.0), batch)


def test_visnet_reads_at_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    if not WITH_PYG_LIB:  # the network is PyG's; only its search for neighbours needs a compiled library

        def radius_graph(pos: Tensor, r: float, batch: Tensor, loop: bool, max_num_neighbors: int) -> Tensor:
            near = (torch.cdist(pos, pos) < r) & (batch[:, None] == batch[None])
            return near.nonzero().T if loop else near.fill_diagonal_(False).nonzero().T

        monkeypatch.setattr(visnet, "radius_graph", radius_graph)
    torch.manual_seed(0)
    batch = batch_of(dtype=torch.float32)
    model = pyg_models.ViSNet(
        hidden_channels=16, num_layers=2, num_heads=2, num_rbf=8, trainable_rbf=False, derivative=True
    )
    found = relative(model, batch.z, batch.pos, batch.batch)
    assert len(found) == 2, "energies and forces"
    assert all(value < 1e-5 for value in found.values()), "float32"


@pytest.mark.skipif(not (WITH_PYG_LIB and WITH_TORCH_SPARSE), reason="DimeNet++ needs pyg-lib and torch-sparse")
def test_dimenet_reads_at_the_floor() -> None:
    torch.manual_seed(0)
    batch = batch_of(dtype=torch.float32)
    model = pyg_models.DimeNetPlusPlus(16, 1, 2, 8, 4, 16, num_spherical=3, num_radial=3)
    assert relative(model, batch.z, batch.pos, batch.batch)["0"] < 1e-4, "float32"
