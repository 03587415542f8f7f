"""The conformance suite for calls, on batches of graphs and on their tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from equiv_probe.testing import check_calls

if TYPE_CHECKING:
    import equiv_probe as ep
    from equiv_probe.testing.conformance import Field


def positions() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(n, 3, generator=generator, dtype=torch.float64) + n for n in (3, 5, 2, 4)]


class Apart(nn.Module):
    """Evaluates a field graph by graph."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def outputs(self, pos: Tensor, batch: Tensor) -> dict[str, Tensor]:
        each = [self.field(pos[batch == b]) for b in range(int(batch.max()) + 1)]
        joined = {"energy": torch.stack([one["energy"] for one in each])}
        return {**joined, "forces": torch.cat([one["forces"] for one in each])}


class OnGraphs(Apart):
    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self.outputs(batch.pos, batch.batch)


class OnTensors(Apart):
    def forward(self, z: Tensor, pos: Tensor, batch: Tensor) -> dict[str, Tensor]:
        return self.outputs(pos, batch)


@dataclass
class Case:
    kind: type[Apart]
    schema: ep.Schema | None = None

    def module(self, field: Field) -> nn.Module:
        return self.kind(field)

    def call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # A ring: as many edges as nodes.
        rings = [torch.stack([torch.arange(len(p)), torch.arange(len(p)).roll(1)]) for p in positions()]
        graphs = [
            Data(pos=p, z=torch.ones(len(p), dtype=torch.long), edge_index=ring)
            for p, ring in zip(positions(), rings, strict=True)
        ]
        batch = Batch.from_data_list(graphs)
        return ((batch,), {}) if self.kind is OnGraphs else ((batch.z, batch.pos), {"batch": batch.batch})

    def positions(self) -> list[Tensor]:
        return positions()


@pytest.mark.parametrize("kind", [OnGraphs, OnTensors])
def test_calls_conform(kind: type[Apart]) -> None:
    check_calls(Case(kind))
