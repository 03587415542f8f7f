"""Batches of graphs in bins of their times: a time for each graph or each node, labels in the graphs or in the step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import equiv_probe as ep
from equiv_probe_pyg import attach

MATRIX = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
PLAN = ep.RotationPlan("icosahedral", replicates=2)
"""Exact for a linear field: every graph's numbers are without noise of rotations."""
BINS = [0.0, 0.5, 1.0]


class Net(nn.Module):
    """``(1 + t) A x`` about the origin."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(MATRIX.clone())

    def forward(self, data: Data) -> dict[str, Tensor]:
        t = data.t if len(data.t) == len(data.pos) else data.t[data.batch]
        return {"forces": (1 + t.reshape(-1, 1)) * (data.pos @ self.matrix.T)}


def graphs(per_node: bool) -> list[Data]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    found = []
    for k in range(12):
        size, t = 3 + k % 4, torch.full((1,), (k + 0.5) / 12, dtype=torch.float64)
        pos = draw(size, 3)
        found.append(Data(pos=pos, t=t.expand(size) if per_node else t, force=1.5 * pos))
    return found


def exact(some: list[Data], low: float, high: float, per_graph: bool) -> tuple[float, float]:
    """``L_total`` and ``L_equiv`` of the graphs in a bin: over their components, or one number for each."""
    trace = float(MATRIX.trace()) / 3
    spread = float(MATRIX.square().sum()) / 3 - trace**2
    own = [g for g in some if low <= float(g.t[0]) < high]
    rows = []
    for g in own:
        a, size = 1 + float(g.t[0]), float(g.pos.square().mean())
        rows.append((size * (a**2 * spread + (a * trace - 1.5) ** 2), size * a**2 * spread, 3.0 * len(g.pos)))
    weights = [1.0 if per_graph else n for *_, n in rows]
    total, equiv = (sum(w * row[k] for w, row in zip(weights, rows, strict=True)) / sum(weights) for k in (0, 1))
    return total, equiv


@pytest.mark.parametrize("per_node", [False, True])
@pytest.mark.parametrize("mode", ["hooks", "step"])
def test_graphs_fall_into_the_bins_of_their_times(mode: str, per_node: bool) -> None:
    some, net = graphs(per_node), Net()
    batch: Any = Batch.from_data_list(some)
    targets = {"forces": "force"} if mode == "hooks" else {}
    schema = ep.Schema({"pos": ep.vector}, {"forces": ep.vector})
    probe = attach(net, targets=targets, schema=schema, every=1, light=PLAN, over="t", bins=BINS)
    if mode == "hooks":
        net(batch)
    else:
        size = batch.batch.bincount()[batch.batch]  # the mean over graphs of each one's own mean
        probe.step(lambda: ((net(batch)["forces"] - batch.force).square().mean(1) / size).sum() / 12)
    found = probe.over_time()
    probe.remove()
    assert [one.structures for one in found.bins] == [6, 6]
    for one in found.bins:
        total, equiv = exact(some, one.low, one.high, per_graph=mode == "step")
        assert one.total == pytest.approx(total, rel=1e-9)
        assert one.equiv == pytest.approx(equiv, rel=1e-9)
