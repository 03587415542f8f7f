"""The transform rotates all of a graph, by Haar rotations, and nothing that is cached."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch_geometric.transforms as T
from torch import Tensor
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.loader import DataLoader

import equiv_probe as ep
from equiv_probe_pyg import RandomRotation

from .graph_models import batch_of, graph, hetero, heteros


def rotation_between(a: Tensor, b: Tensor) -> Tensor:
    """The orthogonal matrix that takes centred points ``a`` to ``b``."""
    a, b = a - a.mean(0), b - b.mean(0)
    return torch.linalg.lstsq(a, b).solution.T


def test_everything_rotates_together() -> None:
    data = graph(6)
    before = {key: value.clone() for key, value in data.to_dict().items() if isinstance(value, Tensor)}
    rotated = RandomRotation(seed=0)(data)
    g = rotation_between(data.pos, rotated.pos)
    identity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(g @ g.T, identity)
    torch.testing.assert_close(torch.linalg.det(g), torch.ones_like(g[0, 0]))
    assert float((g - identity).abs().max()) > 0.1
    torch.testing.assert_close(rotated.pos.mean(0), data.pos.mean(0))
    for name in ("force", "cell", "edge_shift", "dipole"):
        torch.testing.assert_close(rotated[name], data[name] @ g.T)
    torch.testing.assert_close(rotated.stress, g @ data.stress @ g.T)
    for name in ("z", "edge_index", "images", "y"):
        assert torch.equal(rotated[name], data[name])
    assert rotated.name == data.name
    for key, value in before.items():
        assert torch.equal(data[key], value), f"{key} of the cached graph"


def test_pygs_own_transform_leaves_labels_stale() -> None:
    """Negative control: what the transform is there for."""
    data = graph(6)
    rotated = T.RandomRotate(180)(data.clone())
    assert torch.equal(rotated.force, data.force)


def test_each_graph_of_a_batch_rotates_on_its_own() -> None:
    batch = batch_of()
    rotated = RandomRotation(seed=1)(batch)
    assert rotated.cell.shape == batch.cell.shape
    rotations = []
    for old, new in zip(batch.to_data_list(), rotated.to_data_list(), strict=True):
        rotations.append(rotation_between(old.pos, new.pos))
        torch.testing.assert_close(new.force, old.force @ rotations[-1].T)
        torch.testing.assert_close(new.cell, old.cell @ rotations[-1].T)
        torch.testing.assert_close(new.dipole, old.dipole @ rotations[-1].T)
        torch.testing.assert_close(new.stress, rotations[-1] @ old.stress @ rotations[-1].T)
    assert float((rotations[0] - rotations[1]).abs().max()) > 0.1


@pytest.mark.parametrize("batched", [False, True])
def test_a_heterogeneous_graph_rotates_as_one(batched: bool) -> None:
    data: Any = heteros() if batched else hetero(3, 5, 0)
    rotated: Any = RandomRotation(seed=2)(data)
    pairs = zip(data.to_data_list(), rotated.to_data_list(), strict=True) if batched else [(data, rotated)]
    for old, new in pairs:
        a, b = (torch.cat([one["ligand"].pos, one["protein"].pos]) for one in (old, new))
        torch.testing.assert_close(torch.cdist(a, a), torch.cdist(b, b))
        torch.testing.assert_close(a.mean(0), b.mean(0))
        assert not torch.allclose(a, b)


def test_numbers_of_three_graphs_are_no_arrow_and_one_graphs_three_numbers_could_be() -> None:
    batch = batch_of((4, 5, 6))
    batch.y = batch.y  # (3,): one number per graph
    assert torch.equal(RandomRotation(seed=0)(batch).y, batch.y)
    three = Batch.from_data_list([Data(pos=torch.randn(n, 3), mystery=torch.randn(3)) for n in (4, 5)])
    with pytest.raises(ep.EquivProbeError, match="mystery"):
        RandomRotation()(three.get_example(0))


@pytest.mark.slow
def test_rotations_are_haar() -> None:
    data = Data(pos=torch.eye(3, dtype=torch.float64), force=torch.eye(3, dtype=torch.float64))
    rotate = RandomRotation(seed=3, center="origin")
    g = torch.stack([rotate(data).force.T for _ in range(4000)])
    # E R = 0 and E R_ij² = 1/3, with standard errors of sqrt(1/3 / 4000) and sqrt(4/45 / 4000).
    assert float(g.mean(0).abs().max()) < 4.5 * (1 / 12000) ** 0.5
    assert float((g.square().mean(0) - 1 / 3).abs().max()) < 4.5 * (4 / 45 / 4000) ** 0.5
    assert torch.allclose(torch.linalg.det(g), torch.ones(4000, dtype=torch.float64))
    improper = RandomRotation(seed=3, improper=True)
    signs = torch.stack([torch.linalg.det(improper(data).force.T) for _ in range(400)])
    assert abs(float(signs.mean())) < 4.5 / 20


def test_the_source_of_randomness() -> None:
    data = graph(4)
    rotate = RandomRotation()
    torch.manual_seed(5)
    first = rotate(data).pos
    assert not torch.equal(rotate(data).pos, first)
    torch.manual_seed(5)
    assert torch.equal(rotate(data).pos, first), "torch's own random state"
    own, twin = RandomRotation(seed=9), pickle.loads(pickle.dumps(RandomRotation(seed=9)))
    state = torch.get_rng_state()
    assert torch.equal(own(data).pos, twin(data).pos)
    assert torch.equal(torch.get_rng_state(), state), "its own"


def test_what_is_ambiguous_is_refused_and_what_is_declared_stands(capsys: pytest.CaptureFixture[str]) -> None:
    data = graph(5)
    data.x = torch.randn(5, 3, dtype=torch.float64)
    with pytest.raises(ep.EquivProbeError, match="'x'"):
        RandomRotation()(data)
    rotate = RandomRotation(ep.Schema({"x": ep.fixed}, {"y": ep.scalar}))
    assert torch.equal(rotate(data).x, data.x)
    rotated = RandomRotation(ep.Schema({"x": ep.vector}, {}))(data)
    torch.testing.assert_close(rotated.x, data.x @ rotation_between(data.pos, rotated.pos).T)
    with pytest.raises(ep.EquivProbeError, match="velocity"):
        RandomRotation(ep.Schema({"velocity": ep.vector, "x": ep.fixed}, {}))(data)
    label = graph(5)
    label.y = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(ep.EquivProbeError, match="'y'"):
        RandomRotation()(label)
    assert not torch.equal(RandomRotation(ep.Schema({}, {"y": ep.vector}))(label).y, label.y)
    with pytest.raises(ep.EquivProbeError, match="centre"):
        RandomRotation(center="centre")


def test_what_rotates_is_printed_once(caplog: pytest.LogCaptureFixture) -> None:
    data = Data(pos=torch.randn(4, 3), velocities=torch.randn(4, 3), weight=torch.randn(4))
    rotate = RandomRotation()
    caplog.clear()
    rotate(data)
    rotate(data)
    assert caplog.text.count("inputs['velocities'] is vector") == 1


class Kept(InMemoryDataset):
    def __init__(self, transform: Any) -> None:
        super().__init__(None, transform)
        self.data, self.slices = self.collate([graph(n, n) for n in (4, 5, 6, 7)])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_data_loader_with_a_cached_data_set(workers: int) -> None:
    plain, kept = Kept(None), Kept(T.Compose([RandomRotation(), T.NormalizeFeatures(["w"])]))
    loader = DataLoader(kept, batch_size=2, num_workers=workers)
    torch.manual_seed(0)
    epochs = [list(loader), list(loader)]
    for batches in epochs:
        for k, rotated in enumerate(one for batch in batches for one in batch.to_data_list()):
            g = rotation_between(plain[k].pos, rotated.pos)
            torch.testing.assert_close(g @ g.T, torch.eye(3, dtype=torch.float64))
            torch.testing.assert_close(rotated.force, plain[k].force @ g.T)
    assert not torch.allclose(epochs[0][0].pos, epochs[1][0].pos), "other rotations in the next epoch"
    assert torch.equal(kept._data.pos, plain._data.pos), "what is kept"
    torch.manual_seed(0)
    assert torch.equal(next(iter(loader)).pos, epochs[0][0].pos), "the loader's seed decides"


def test_a_transform_of_a_batch_without_bookkeeping() -> None:
    data = Batch(pos=torch.randn(6, 3), batch=torch.tensor([0, 0, 0, 1, 1, 1]))
    rotated = RandomRotation()(data)
    first, second = (rotation_between(data.pos[p].double(), rotated.pos[p].double()) for p in (slice(3), slice(3, 6)))
    assert float((first - second).abs().max()) > 1e-2
    torch.testing.assert_close(torch.cdist(data.pos[:3], data.pos[:3]), torch.cdist(rotated.pos[:3], rotated.pos[:3]))
