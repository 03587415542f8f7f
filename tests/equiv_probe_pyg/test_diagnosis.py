"""A diagnosis of a network of PyG's: edges are counted anew, every graph rotates about its own centre."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import MessagePassing

import equiv_probe as ep


class Push(MessagePassing):
    """Forces along the edges, with their components in the given order."""

    def __init__(self, order: list[int]) -> None:
        super().__init__(aggr="add")
        self.order = order

    def forward(self, data: Data) -> dict[str, Tensor]:
        return {"forces": self.propagate(data.edge_index, pos=data.pos)}

    def message(self, pos_i: Tensor, pos_j: Tensor) -> Tensor:
        apart = pos_j - pos_i
        return torch.exp(-apart.square().sum(-1, keepdim=True) / 4) * apart[:, self.order]


class Net(nn.Module):
    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.push = Push(order)

    def forward(self, data: Data) -> dict[str, Tensor]:
        return self.push(data)


def graph(seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    count = 5 + seed
    return Data(
        z=torch.randint(1, 9, (count,), generator=generator),
        pos=torch.randn(count, 3, generator=generator, dtype=torch.float64) + seed,
        edge_index=torch.cartesian_prod(torch.arange(count), torch.arange(count)).T,
    )


@pytest.mark.parametrize(("order", "said"), [([1, 2, 0], "order of axes"), ([0, 1, 2], "nothing")])
def test_a_batch_of_graphs(order: list[int], said: str) -> None:
    found = ep.diagnose(Net(order), Batch.from_data_list([graph(0), graph(1)]))
    assert found.verdict == said, str(found)
    states = {one.experiment: one.state for one in found.attempts}
    assert "failed" not in states.values()
    if said == "nothing":
        assert states["order of atoms"] == "excluded"
