"""A few graphs of a batch, alone: each gets what it gets in the batch, by whatever way the batch was put together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch_geometric.data import Batch

from equiv_probe.live.cutting import FEW
from equiv_probe.live.live_orbit import LiveOrbit

from .graph_models import Complex, Equivariant, Everything, batch_of, hetero

SIZES = (4, 7, 5, 6) * 5


@pytest.mark.parametrize("kind", ["graphs", "graphs and a tensor", "tensors"])
def test_parts_get_what_they_get_in_their_batch(kind: str) -> None:
    batch = batch_of(SIZES)
    model: Any = Equivariant().double().eval() if kind == "tensors" else Everything()
    args: tuple[Any, ...] = (batch, torch.linspace(1, 2, len(SIZES)).double())[: 1 + (kind == "graphs and a tensor")]
    if kind == "tensors":
        args = batch.z, batch.pos, batch.edge_index, batch.batch
    live = LiveOrbit(model)
    call, raw = live.keep(args, {}), model(*args)
    live.resolve(call, raw)
    part = live.part(call, raw, seed=0, number=3)
    assert part is not None
    assert (len(part.chosen), part.count) == (FEW, len(SIZES))
    alone, outputs = live.copies.at(part.call, {}), live.copies.at(call, {})
    for name, value in part.of(outputs).items():
        torch.testing.assert_close(alone[name], value, rtol=1e-11, atol=1e-11)
    forces = next(name for name, value in outputs.items() if len(value) == len(batch.pos))
    sizes = torch.tensor(SIZES)[part.chosen]
    assert torch.equal(part.owners[forces].bincount(), sizes), "all of their nodes, and no others"
    back = part.put_back({n: -v for n, v in alone.items()}, outputs, None)
    mine = torch.isin(batch.batch, part.chosen)
    torch.testing.assert_close(back[forces][mine], -outputs[forces][mine], rtol=1e-11, atol=1e-11)
    assert torch.equal(back[forces][~mine], outputs[forces][~mine])


def test_graphs_of_several_node_types_are_measured_as_a_whole() -> None:
    """There is no one index of their nodes."""
    batch = Batch.from_data_list([hetero(3 + seed % 2, 5, seed) for seed in range(20)])
    model = Complex()
    live = LiveOrbit(model)
    call, raw = live.keep((batch,), {}), model(batch)
    live.resolve(call, raw)
    assert live.part(call, raw, 0, 0) is None
