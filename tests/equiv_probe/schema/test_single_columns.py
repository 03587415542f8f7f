"""Columns made of the geometry are found whatever made them; invariants that only look like it are left alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.rotations.haar import haar

F = torch.float64
SIZES = [11, 9, 14, 10]
BATCH = torch.repeat_interleave(torch.arange(4), torch.tensor(SIZES))
STARTS = [sum(SIZES[:k]) for k in range(5)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F)


POS = 2 * draw(44, 3)
ATOMS = draw(44, 2, seed=1)
EDGES = torch.cat([torch.combinations(torch.arange(a, b)) for a, b in pairwise(STARTS)]).T


def per_graph(make: object) -> object:
    return lambda pos: torch.cat([make(pos[a:b]) for a, b in pairwise(STARTS)])  # type: ignore[operator]


MADE_OF_PLACES = {
    "squared height": lambda pos: pos[:, 2:].square(),
    "Fourier": lambda pos: torch.cat([f(2.0**k * pos) for k in range(3) for f in (torch.sin, torch.cos)], 1),
    "Fourier of a box": lambda pos: torch.cos(2 * torch.pi * pos[:, :1]),
    "bounding box": per_graph(lambda p: (p - p.amin(0)) / (p.amax(0) - p.amin(0))),
    "rank": per_graph(lambda p: p[:, 1:2].argsort(0).argsort(0).to(F)),
    "voxel": lambda pos: (pos / 0.1).floor(),
    "squashed": lambda pos: torch.tanh(0.3 * pos),
    "own units": per_graph(lambda p: 10 * p[:, :1] / p[:, :1].abs().max()),
    "quadratic": per_graph(lambda p: (c := p - p.mean(0))[:, :1] * c[:, 1:2] + c[:, 2:].square()),
}
MADE_OF_ARROWS = {
    "permuted directions": lambda d: torch.cat(
        [d.norm(dim=1, keepdim=True), d[:, [1, 2, 0]] / d.norm(dim=1)[:, None]], 1
    ),
    "azimuth": lambda d: torch.stack([d[:, 1], d[:, 0]], 1) / d[:, :2].norm(dim=1, keepdim=True),
    "outer products": lambda d: (d[:, :, None] * d[:, None])[:, [0, 0, 1], [1, 2, 2]],
    "degree two": lambda d: (u := d / d.norm(dim=1, keepdim=True))[:, :2] * u[:, 1:],
    "in degrees": lambda d: torch.rad2deg(torch.acos(d[:, 2:] / d.norm(dim=1, keepdim=True))),
}


class Reads(nn.Module):
    """A sound function of the places, and any function of what it is given beside them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 1)).to(F)

    def forward(self, pos: Tensor, features: Tensor, batch: Tensor, edge_index: Tensor) -> Tensor:
        near = torch.exp(-(pos[edge_index[0]] - pos[edge_index[1]]).norm(dim=1, keepdim=True))
        own = batch if len(features) == len(batch) else batch[edge_index[0]]
        energy = pos.new_zeros(4, 1).index_add(0, batch[edge_index[0]], near)
        return energy.index_add(0, own, self.net(features))


def measured(features: Tensor, schema: ep.Schema | None = None) -> float:
    net = Reads(features.shape[1]).eval()
    with ep.Probe(net, schema, every=1, full=1, budget=None) as probe, torch.no_grad():
        net(POS, features, BATCH, EDGES)
    return float(probe.compute(window=False)["equiv/val/0/L_equiv"])


@pytest.mark.parametrize("kind", [*MADE_OF_PLACES, *MADE_OF_ARROWS])
@pytest.mark.parametrize("dtype", [torch.float32, F], ids=str)
def test_no_zero_for_a_network_that_sees_the_geometry_in_its_features(kind: str, dtype: torch.dtype) -> None:
    """The truth is brute force, with features made anew; declared as fixed they give the zero that nobody may see."""
    of_atoms = kind in MADE_OF_PLACES
    make = (MADE_OF_PLACES | MADE_OF_ARROWS)[kind]

    def features(pos: Tensor) -> Tensor:
        made = make(pos) if of_atoms else make(pos[EDGES[1]] - pos[EDGES[0]])  # type: ignore[operator]
        chance = ATOMS if of_atoms else draw(EDGES.shape[1], 2, seed=2)
        return torch.cat([chance, made], 1).to(dtype).to(F)

    net = Reads(features(POS).shape[1])
    truth = torch.stack([net(POS @ g.T, features(POS @ g.T), BATCH, EDGES) for g in haar(50)]).var(0).mean()
    assert truth > 1e-4
    schema = ep.Schema({"pos": ep.point, "features": ep.fixed}, {"0": ep.scalar}, batch="batch")
    assert measured(features(POS), schema) < 1e-20, "the negative control: declared as fixed, it hides the error"
    with pytest.raises(ep.EquivProbeError, match=r"'features'.*column.*pos.*ep.fixed"):
        measured(features(POS))


def layers(count: int, rattle: float) -> Tensor:
    grid = torch.cartesian_prod(*(torch.arange(n, dtype=F) for n in (3, 3, count)))
    return 2.5 * grid + rattle * draw(len(grid), 3)


@pytest.mark.parametrize(
    "pos", [POS, layers(4, 0.0), layers(6, 0.05), layers(3, 0.05)], ids=["molecules", "4", "6", "3"]
)
@pytest.mark.parametrize("dtype", [torch.float32, F], ids=str)
def test_invariants_and_labels_of_atoms_are_no_coordinates(pos: Tensor, dtype: torch.dtype) -> None:
    """Negative control: what a sound model is given, on structures whose layers lie along an axis."""
    far = torch.cdist(pos, pos)
    centred = pos - pos.mean(0)
    charge = torch.exp(-far).sum(1, keepdim=True)
    kinds = (torch.arange(len(pos)) % 3)[:, None].to(F)
    for value in (
        torch.exp(-((far[:, :, None] - torch.linspace(0.5, 5, 12, dtype=F)) ** 2)).sum(1),
        (far < 3.0).sum(1, keepdim=True).to(F),
        torch.cat([charge, kinds], 1),
        centred.norm(dim=1, keepdim=True),
        centred.square().sum(1, keepdim=True),
        torch.arange(len(pos))[:, None].to(F).sqrt(),
        draw(len(pos), 5, seed=4),
    ):
        inputs = {"pos": pos.to(dtype), "x": value.to(dtype)}
        assert ep.Schema.infer(inputs, {"energy": torch.zeros(())}).inputs["x"] == ep.fixed


@pytest.mark.parametrize("form", ["components first", "flat", "flat, components first", "two arrays", "scaled"])
def test_coordinates_in_another_layout_are_found(form: str) -> None:
    pos, other = draw(4, 7, 3), draw(4, 7, 3, seed=5)
    value = {
        "components first": pos.mT,
        "flat": pos.flatten(1),
        "flat, components first": pos.mT.flatten(1),
        "two arrays": torch.cat([other, pos], -1).mT,
        "scaled": 0.1 * (pos - pos.mean(1, keepdim=True)).mT,
    }[form]
    with pytest.raises(ep.EquivProbeError, match=r"'x'.*'pos'.*components"):
        ep.Schema.infer({"pos": pos, "x": value}, {"energy": torch.zeros(4)})
    for chance in (draw(*value.shape, seed=6), draw(4, 21, seed=7)):
        found = ep.Schema.infer({"pos": pos, "x": chance}, {"energy": torch.zeros(4)})
        assert found.inputs["x"] == ep.fixed, "the negative control"


def test_edges_to_oneself_are_no_evidence() -> None:
    """Radial functions of long edges are nearly nothing, as the arrow from an atom to itself in the next cell is."""
    cell = 3.0 * torch.eye(3, dtype=F)
    edges = torch.stack([torch.arange(12) // 6, torch.arange(12) // 6])
    radial = torch.exp(-((3.0 - torch.linspace(0.5, 4, 16, dtype=F)) ** 2) / 0.01).expand(12, 16)
    inputs = {"pos": draw(2, 3), "cell": cell, "edge_index": edges, "edge_attr": radial}
    assert ep.Schema.infer(inputs, {"energy": torch.zeros(())}).inputs["edge_attr"] == ep.fixed


def test_voxels_of_points_are_coordinates_too() -> None:
    voxels = (POS / 0.1).floor().long()
    for value in (voxels, torch.cat([BATCH[:, None], voxels], 1)):
        with pytest.raises(ep.EquivProbeError, match=r"'coordinates'.*'pos'"):
            ep.Schema.infer({"pos": POS, "coordinates": value}, {"energy": torch.zeros(())})
    for chance in (torch.randint(-20, 20, (44, 3)), torch.arange(132).reshape(44, 3), EDGES.T[:44].repeat(1, 2)):
        found = ep.Schema.infer({"pos": POS, "triples": chance}, {"energy": torch.zeros(())})
        assert found.inputs["triples"] == ep.fixed, "the negative control"


@pytest.mark.parametrize("cell", [torch.diag(torch.tensor([9.0, 8.0, 7.0])), 9.0 * torch.eye(3)])
def test_counts_of_cells_are_no_coordinates(cell: Tensor) -> None:
    """Shifts are whole numbers times the cell: the numbers stay where shifts rotate, whatever the cell."""
    images = torch.randint(-1, 2, (EDGES.shape[1], 3), generator=torch.Generator().manual_seed(2))
    given = {"pos": POS, "edge_index": EDGES, "edge_shift": images.double() @ cell.double(), "images": images}
    found = ep.Schema.infer(given, {"energy": torch.zeros(())})
    assert found.inputs["images"] == ep.fixed
    assert found.inputs["edge_shift"] == ep.vector
