"""Steps that write into their graphs, or move them into frames of their own, before they call the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import equiv_probe as ep
from equiv_probe.estimation.controls import OWN_FRAME

if TYPE_CHECKING:
    from collections.abc import Callable

ATOMS = 7


class Field(nn.Module):
    """A field that knows where the origin is, and so notices whatever a step leaves in its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3, dtype=torch.float64)

    def forward(self, data: Any) -> dict[str, Tensor]:
        return {"forces": self.layer(data.pos).tanh()}


def graphs(kind: str) -> Any:
    """A batch of six, or a single graph."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(ATOMS, 3, generator=generator, dtype=torch.float64)

    made = [Data(pos=draw(), forces=draw()) for _ in range(6)]
    return Batch.from_data_list(made) if kind == "batch" else made[0]


def scaled(batch: Any) -> None:
    batch.pos *= 1.5


def shifted(batch: Any) -> None:
    batch.pos = batch.pos + 0.5


def counted(batch: Any) -> None:
    batch.seen = getattr(batch, "seen", 0) + 1
    batch.pos = batch.pos * batch.seen


@pytest.mark.parametrize("kind", ["batch", "single"])
@pytest.mark.parametrize("write", [scaled, shifted, counted])
def test_what_a_step_writes_into_its_graphs_is_put_back(kind: str, write: Callable[[Any], None]) -> None:
    """The same as of a step that writes into a copy; a class of PyG's batches is made on the fly, and by nobody."""
    torch.manual_seed(0)
    network, given, kept = Field(), graphs(kind), graphs(kind)
    plan = ep.RotationPlan("tetrahedral", 2)

    def step() -> Tensor:
        write(given)
        return (network(given)["forces"] - given.forces).square().mean()

    def truth() -> Tensor:
        copy = kept.clone()
        write(copy)
        return (network(copy)["forces"] - copy.forces).square().mean()

    found, right = (ep.Probe(network).replay(one, plan) for one in (step, truth))
    assert found.total == pytest.approx(right.total, rel=1e-12)
    assert found.equiv == pytest.approx(right.equiv, rel=1e-9)
    assert right.equiv > 1e-3
    write(kept)
    assert torch.equal(given.pos, kept.pos), "as one run leaves it"


def frames(batch: Any) -> Tensor:
    """Axes of the first three atoms of each graph, by atom ``(N, 3, 3)``, as columns."""
    x = batch.pos.view(-1, ATOMS, 3)
    first = nn.functional.normalize(x[:, 1] - x[:, 0], dim=-1)
    third = nn.functional.normalize(torch.linalg.cross(first, x[:, 2] - x[:, 0]), dim=-1)
    return torch.stack([first, torch.linalg.cross(third, first), third], -1).repeat_interleave(ATOMS, 0)


@pytest.mark.parametrize("aligned", [True, False])
def test_graphs_in_frames_of_their_own_are_told(aligned: bool) -> None:
    torch.manual_seed(0)
    network, batch = Field(), graphs("batch")

    def step() -> Tensor:
        copy = batch.clone()
        axes = frames(batch) if aligned else torch.eye(3, dtype=torch.float64)
        copy.pos = (batch.pos[:, None] @ axes)[:, 0]
        forces = (network(copy)["forces"][:, None] @ axes.mT)[:, 0]
        return (forces - batch.forces).square().mean()

    probe = ep.Probe(network, every=1, cost=None)
    for _ in range(2):
        probe.step(step)
    (found,) = (one for one in probe.controls if one.name == OWN_FRAME)
    assert found.failed == aligned
    if aligned:
        assert "pos of Field stays the same, and the step's loss stays, too" in found.sentence
