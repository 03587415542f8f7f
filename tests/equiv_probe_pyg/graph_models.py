"""Networks and batches of graphs for the tests: planted ones with known outputs, and layers of PyG's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.nn import (
    MessagePassing,
    PointNetConv,
    PointTransformerConv,
    TransformerConv,
    global_add_pool,
)
from torch_geometric.nn import (
    models as pyg_models,
)

SIZES = (4, 7, 5, 6)


def edges_of(pos: Tensor, cutoff: float = 6.0) -> Tensor:
    """All ordered pairs of one structure within the cutoff, ``(2, E)``."""
    near = torch.cdist(pos, pos) < cutoff
    near.fill_diagonal_(False)
    return near.nonzero().T


def edges_within(pos: Tensor, batch: Tensor, cutoff: float = 6.0) -> Tensor:
    """The same of a batch of structures."""
    near = (torch.cdist(pos, pos) < cutoff) & (batch[:, None] == batch[None])
    near.fill_diagonal_(False)
    return near.nonzero().T


def graph(atoms: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Data:
    """A random structure with labels of every kind, and a box with edges through its walls."""
    generator = torch.Generator().manual_seed(100 * seed + atoms)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    pos = 1.5 * draw(atoms, 3)
    edges = edges_of(pos)
    cell = 9 * torch.eye(3, dtype=dtype) + draw(3, 3)
    images = torch.randint(-1, 2, (edges.shape[1], 3), generator=generator)
    return Data(
        z=torch.randint(1, 9, (atoms,), generator=generator),
        pos=pos,
        edge_index=edges,
        cell=cell,
        edge_shift=images.to(dtype) @ cell,
        images=images,
        y=draw(1),
        force=draw(atoms, 3),
        stress=draw(3, 3),
        dipole=draw(3),
        name=f"structure {seed}",
    )


def batch_of(sizes: tuple[int, ...] = SIZES, dtype: torch.dtype = torch.float64) -> Any:
    return Batch.from_data_list([graph(n, seed, dtype) for seed, n in enumerate(sizes)])


class Everything(nn.Module):
    """Outputs of nodes, edges and graphs from all that a graph holds; nothing of it respects rotation."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        draw = lambda *shape: nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))  # noqa: E731
        self.mix, self.tilt, self.weight = draw(3, 3), draw(3, 3), draw(3)

    def forward(self, data: Any, t: Tensor | None = None) -> dict[str, Tensor]:
        i, j = data.edge_index
        arrows = data.pos[j] - data.pos[i] + data.edge_shift
        messages = torch.tanh(arrows @ self.mix) * data.z[j, None].to(arrows)
        forces = torch.zeros_like(data.pos).index_add(0, i, messages)
        index = torch.zeros_like(data.z) if data.batch is None else data.batch
        energy = global_add_pool((forces @ self.tilt).square().sum(-1), index)
        cells = data.cell.reshape(-1, 3, 3)
        energy = energy + (cells @ self.weight).square().sum(-1)
        if t is not None:
            energy = energy * t
        stress = cells @ self.tilt
        return {"energy": energy, "forces": forces, "edge_flow": messages, "stress": stress}


class Equivariant(MessagePassing):
    """An EGNN-type layer: messages of distances, forces along edges, energy of invariants."""

    def __init__(self, width: int = 16) -> None:
        super().__init__(aggr="add")
        self.embed = nn.Embedding(20, width)
        self.edge = nn.Sequential(nn.Linear(2 * width + 1, width), nn.SiLU(), nn.Linear(width, width + 1))
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, z: Tensor, pos: Tensor, edge_index: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        h = self.embed(z)
        gathered = self.propagate(edge_index, h=h, pos=pos)
        m, forces = gathered[:, :-3], gathered[:, -3:]
        return global_add_pool(self.node(torch.cat([h, m], -1)), batch), forces

    def message(self, h_i: Tensor, h_j: Tensor, pos_i: Tensor, pos_j: Tensor) -> Tensor:
        arrows = pos_i - pos_j
        m = self.edge(torch.cat([h_i, h_j, arrows.square().sum(-1, keepdim=True)], -1))
        return torch.cat([m[:, :-1], m[:, -1:] * arrows], -1)


class GraphTransformer(nn.Module):
    """A plain graph transformer: positions are features like any other."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(20, width), nn.Linear(3, width)
        self.layers = nn.ModuleList([TransformerConv(width, width // 2, heads=2) for _ in range(2)])
        self.forces, self.energy = nn.Linear(width, 3), nn.Linear(width, 1)

    def forward(self, data: Any) -> dict[str, Tensor]:
        batch = torch.zeros_like(data.z) if data.batch is None else data.batch
        mean = global_add_pool(data.pos, batch) / global_add_pool(torch.ones_like(data.pos[:, :1]), batch)
        h = self.embed(data.z) + self.place(data.pos - mean[batch])
        for layer in self.layers:
            h = h + torch.tanh(layer(h, data.edge_index))
        return {"energy": global_add_pool(self.energy(h), batch)[:, 0], "forces": self.forces(h)}


class PointNet(nn.Module):
    """Of PointNet++ type: differences of positions as features of messages."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = PointNetConv(nn.Sequential(nn.Linear(3, width), nn.ReLU()), nn.Linear(width, width))
        self.second = PointNetConv(nn.Linear(width + 3, width), nn.Linear(width, width))
        self.head = nn.Linear(width, 1)

    def forward(self, pos: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        h = self.first(None, pos, edge_index).relu()
        return global_add_pool(self.head(self.second(h, pos, edge_index).relu()), batch)


class PointTransformer(nn.Module):
    """Of PointTransformer type: attention that encodes differences of positions."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(20, width), PointTransformerConv(width, width)
        self.head = nn.Linear(width, 1)

    def forward(self, data: Any) -> Tensor:
        h = self.layer(self.embed(data.z), data.pos, data.edge_index)
        return global_add_pool(self.head(h.tanh()), data.batch)


class Interactions(nn.Module):
    """Neighbours and distances for SchNet, without ``torch-cluster``."""

    def __init__(self, cutoff: float = 6.0) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        edges = edges_within(pos, batch, self.cutoff)
        return edges, (pos[edges[0]] - pos[edges[1]]).norm(dim=-1)


def schnet(**options: Any) -> nn.Module:
    """PyG's SchNet, small."""
    torch.manual_seed(0)
    return pyg_models.SchNet(
        hidden_channels=16, num_filters=16, num_interactions=2, num_gaussians=10, interaction_graph=Interactions()
    )


class Complex(nn.Module):
    """A heterogeneous network of a ligand and a protein, whose ligand is pushed about by both."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.mix = nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))

    def forward(self, data: HeteroData) -> dict[str, Tensor]:
        i, j = data["ligand", "near", "protein"].edge_index
        arrows = data["protein"].pos[j] - data["ligand"].pos[i]
        pushed = torch.zeros_like(data["ligand"].pos).index_add(0, i, torch.tanh(arrows @ self.mix))
        own = torch.zeros_like(data["protein"].pos).index_add(0, j, torch.tanh(-arrows @ self.mix))
        each = (pushed @ self.mix).square().sum(-1)
        index = data["ligand"].batch if "batch" in data["ligand"] else torch.zeros(len(each), dtype=torch.long)
        return {"ligand": pushed, "protein_forces": own, "energy": global_add_pool(each, index)}


def hetero(ligand: int, protein: int, seed: int) -> HeteroData:
    generator = torch.Generator().manual_seed(seed)
    data = HeteroData()
    data["ligand"].pos = torch.randn(ligand, 3, generator=generator, dtype=torch.float64)
    data["protein"].pos = 2 * torch.randn(protein, 3, generator=generator, dtype=torch.float64) + 4
    pairs = torch.cartesian_prod(torch.arange(ligand), torch.arange(protein)).T
    data["ligand", "near", "protein"].edge_index = pairs
    data.y = torch.randn(1, generator=generator, dtype=torch.float64)
    return data


def heteros() -> Any:
    # As many ligand atoms as protein atoms in all: lengths alone would not tell them apart.
    return Batch.from_data_list([hetero(3, 5, 0), hetero(4, 2, 1), hetero(5, 5, 2)])
