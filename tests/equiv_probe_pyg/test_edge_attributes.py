"""Geometry that reaches a network through ``edge_attr`` and ``x``, as PyG's transforms make them."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.transforms as T
from torch import Tensor, nn
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.nn import NNConv, global_add_pool

import equiv_probe as ep
from equiv_probe.rotations.haar import haar
from equiv_probe_pyg import RandomRotation, attach


def molecule(atoms: int, seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.combinations(torch.arange(atoms)).T
    edges = torch.cat([edges, edges.flip(0)], 1)
    bonds = torch.randint(0, 4, (edges.shape[1],), generator=generator)
    return Data(
        x=torch.randn(atoms, 5, generator=generator),
        pos=torch.randn(atoms, 3, generator=generator),
        edge_index=edges,
        edge_attr=nn.functional.one_hot(bonds, 4).float(),
        y=torch.randn(1, 1, generator=generator),
    )


MOLECULES = [molecule(5 + i % 3, i) for i in range(12)]


class Network(nn.Module):
    """As in PyG's example qm9_nn_conv.py."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(5, 8)
        inner = nn.Sequential(nn.Linear(width, 16), nn.SiLU(), nn.Linear(16, 64))
        self.conv, self.last = NNConv(8, 8, inner, aggr="mean"), nn.Linear(8, 1)

    def forward(self, data: Batch) -> Tensor:
        h = torch.tanh(self.first(data.x))
        h = h + torch.tanh(self.conv(h, data.edge_index, data.edge_attr))
        return self.last(global_add_pool(h, data.batch))


def made(transform: object, g: Tensor | None = None) -> Batch:
    graphs = []
    for one in MOLECULES:
        graph = one.clone()
        if g is not None:
            center = graph.pos.mean(0)
            graph.pos = (graph.pos - center) @ g.T + center
        graphs.append(transform(graph))  # type: ignore[operator]
    return Batch.from_data_list(graphs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "transform",
    [
        T.Cartesian(norm=False),
        T.Cartesian(norm=False, cat=False),
        T.LocalCartesian(norm=False),
        T.Compose([T.Distance(norm=False), T.Cartesian(norm=False)]),
    ],
    ids=["Cartesian", "Cartesian alone", "LocalCartesian", "Distance and Cartesian"],
)
def test_the_share_is_that_of_rotated_molecules_transformed_anew(transform: object) -> None:
    """To 15 %: brute force over 400 rotations, 8 icosahedral replicates on the other side."""
    batch = made(transform)
    net = Network(batch.edge_attr.shape[1]).eval()
    with torch.no_grad():
        orbit = torch.stack([net(made(transform, g)) for g in haar(400, torch.Generator().manual_seed(0)).float()])
        truth = float(orbit.var(0).mean())
        with attach(net, every=1, full=1, budget=None, plan=ep.RotationPlan("icosahedral", 8)) as probe:
            net(batch)
        found = probe.compute()["equiv/val/0/L_equiv"]
        assert abs(found / truth - 1) < 0.15, (found, truth)
        left = ep.Schema({"pos": ep.point, "edge_attr": ep.fixed}, {})
        with attach(net, schema=left, every=1, full=1, budget=None) as probe:
            net(batch)
    assert probe.compute()["equiv/val/0/L_equiv"] < 1e-9 * truth, "the negative control"


@pytest.mark.parametrize(
    "transform",
    [T.Cartesian(), T.LocalCartesian(), T.Cartesian(interval=(-1, 3)), T.Spherical(norm=False), T.Spherical()],
    ids=["Cartesian", "LocalCartesian", "another interval", "Spherical", "Spherical, norm"],
)
def test_what_cannot_rotate_is_refused_before_a_number(transform: object) -> None:
    batch = made(transform)
    net = Network(batch.edge_attr.shape[1]).eval()
    refused = pytest.raises(ep.EquivProbeError, match=r'inputs\[.edge_attr.\].*"edge_attr": ep.fixed')
    with refused, attach(net, every=1, full=1, budget=None):
        net(batch)
    with pytest.raises(ep.EquivProbeError, match="edge_attr"):
        RandomRotation()(transform(MOLECULES[2].clone()))  # type: ignore[operator]


def test_distances_stay_invariant_features() -> None:
    batch = made(T.Distance(norm=False))
    net = Network(batch.edge_attr.shape[1]).eval()
    with attach(net, every=1, full=1, budget=None) as probe, torch.no_grad():
        net(batch)
    assert probe.compute()["equiv/val/0/L_equiv"] < 1e-10


@pytest.mark.parametrize("atoms", [5, 9, 20])
def test_the_transform_rotates_what_is_hidden(atoms: int) -> None:
    data = T.Cartesian(norm=False)(molecule(atoms, 3))
    normal = torch.randn(atoms, 3)
    data.normal, data.x = normal, torch.cat([data.x, data.pos, normal], 1)
    rotated = RandomRotation(seed=0)(data)
    assert not torch.allclose(rotated.pos, data.pos)
    torch.testing.assert_close(rotated.x[:, 5:8], rotated.pos)
    torch.testing.assert_close(rotated.x[:, 8:], rotated.normal)
    assert torch.equal(rotated.x[:, :5], data.x[:, :5])
    again = T.Cartesian(norm=False)(Data(pos=rotated.pos, edge_index=data.edge_index)).edge_attr
    torch.testing.assert_close(rotated.edge_attr[:, 4:], again, rtol=0, atol=1e-5)
    assert torch.equal(rotated.edge_attr[:, :4], data.edge_attr[:, :4])


def test_edges_between_kinds_of_nodes() -> None:
    data = HeteroData()
    data["ligand"].pos, data["protein"].pos = torch.randn(6, 3), 2 * torch.randn(9, 3)
    pairs = torch.cartesian_prod(torch.arange(6), torch.arange(9)).T
    arrows = data["protein"].pos[pairs[1]] - data["ligand"].pos[pairs[0]]
    data["ligand", "near", "protein"].edge_index = pairs
    data["ligand", "near", "protein"].edge_attr = torch.cat([arrows.norm(dim=1, keepdim=True), arrows], 1)
    rotated = RandomRotation(seed=0)(data)
    now = rotated["protein"].pos[pairs[1]] - rotated["ligand"].pos[pairs[0]]
    torch.testing.assert_close(rotated["ligand", "near", "protein"].edge_attr[:, 1:], now, rtol=0, atol=1e-5)
    assert not torch.allclose(now, arrows, atol=0.1)
