"""Flow matching, denoising and score matching on a real Trainer, dense and as graphs: shares in closed form.

The network is ``f(x, t) = a(t) A (x − c)``, plus c where it predicts places. Its twirl is ``a(t) tr(A)/3 (x − c)``,
which tetrahedral rotations find exactly, so that ``L_equiv`` of the user's own loss, noise and times and all, is

    Σ w(t) a(t)² |x − c|² (‖A‖²/3 − tr(A)²/9) / Σ mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader as GraphLoader
from torch_geometric.utils import scatter

import equiv_probe as ep
from equiv_probe_lightning import EquivarianceCallback

from .lightning_models import trainer

if TYPE_CHECKING:
    from pathlib import Path

EXACT = ep.RotationPlan("tetrahedral", replicates=2)
MATRIX = torch.tensor([[1.5, 0.3, 0.0], [-0.2, 0.7, 0.1], [0.4, 0.0, 0.9]], dtype=torch.float64)
BROKEN = float(MATRIX.square().sum() / 3 - MATRIX.trace() ** 2 / 9)
SIZES = [3, 5, 7, 4, 6, 7, 2, 5]
OBJECTIVES = ["velocity", "noise", "data", "score"]


def gain(t: Tensor) -> Tensor:
    return 0.5 + t


class Dense(nn.Module):
    """``(B, N, 3)`` with a mask; padding is never looked at."""

    def __init__(self, *, places: bool) -> None:
        super().__init__()
        self.matrix, self.places = nn.Parameter(MATRIX.clone()), places

    def forward(self, x_t: Tensor, t: Tensor, mask: Tensor) -> Tensor:
        centre = (x_t * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        out = gain(t)[:, None, None] * (x_t - centre) @ self.matrix.T
        return out + centre if self.places else out


class Graphs(nn.Module):
    """A PyG batch with ``pos`` and a time for every graph."""

    def __init__(self, *, places: bool) -> None:
        super().__init__()
        self.matrix, self.places = nn.Parameter(MATRIX.clone()), places

    def forward(self, data: Any) -> Tensor:
        centre = scatter(data.pos, data.batch, reduce="mean")[data.batch]
        out = gain(data.t)[data.batch][:, None] * (data.pos - centre) @ self.matrix.T
        return out + centre if self.places else out


class Flow(pl.LightningModule):
    """Draws its own noise and times in the step, and keeps what the closed form needs."""

    def __init__(self, kind: str, predicts: str) -> None:
        super().__init__()
        self.kind, self.predicts = kind, predicts
        self.net = (Dense if kind == "dense" else Graphs)(places=predicts == "data")
        self.seen: list[tuple[float, float]] = []

    def loss(self, batch: Any) -> Tensor:
        if self.kind == "dense":
            x1, mask = batch
            index = torch.arange(len(x1))[:, None].expand(mask.shape)[mask]
            x1 = x1[mask]
        else:
            x1, index = batch.pos, batch.batch
        count = int(index.max()) + 1
        t, noise = torch.rand(count, dtype=x1.dtype), torch.randn_like(x1)
        at = t[index][:, None]
        x_t = (1 - at) * noise + at * x1
        if self.kind == "dense":
            padded = torch.full((*mask.shape, 3), 9.0, dtype=x1.dtype).masked_scatter(mask[..., None], x_t)
            output = self.net(padded, t, mask)[mask]
        else:
            asked = batch.clone()
            asked.pos, asked.t = x_t, t
            output = self.net(asked)
        target = {"velocity": x1 - noise, "noise": noise, "data": x1, "score": -noise / (1.1 - at)}[self.predicts]
        weight = (1.1 - at) ** 2 if self.predicts == "score" else torch.ones_like(at)
        z = x_t - scatter(x_t, index, reduce="mean")[index]
        self.seen.append((float((weight * (gain(at) * z).square()).sum() * BROKEN), x1.numel()))
        return (weight * (output - target).square()).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


def loader(kind: str) -> Any:
    generator = torch.Generator().manual_seed(0)
    structures = [2 + torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in SIZES]
    if kind == "graphs":
        return GraphLoader([Data(pos=x) for x in structures], 4)
    padded = torch.zeros(len(SIZES), max(SIZES), 3, dtype=torch.float64)
    mask = torch.arange(max(SIZES))[None] < torch.tensor(SIZES)[:, None]
    padded[mask] = torch.cat(structures)
    return DataLoader(TensorDataset(padded, mask), 4)


def fitted(kind: str, predicts: str, folder: Path) -> tuple[Flow, dict[str, float]]:
    torch.manual_seed(0)
    schema: dict[str, Any] = {"outputs": {"0": "point"}} if predicts == "data" else {}
    callback = EquivarianceCallback(
        every=1, light=EXACT, plan=EXACT, full=1, cost=None, window=100, **({"schema": schema} if schema else {})
    )
    module, data = Flow(kind, predicts), loader(kind)
    trainer(folder, [callback], max_epochs=3).fit(module, data)
    assert callback.probe is not None
    assert not callback.probe.failures
    return module, callback.probe.compute(window=False)


@pytest.mark.slow
@pytest.mark.parametrize("predicts", OBJECTIVES)
@pytest.mark.parametrize("kind", ["dense", "graphs"])
def test_the_users_own_loss_is_the_closed_form(kind: str, predicts: str, tmp_path: Path) -> None:
    module, found = fitted(kind, predicts, tmp_path)
    # Every replay draws the same noise and times: what was seen comes again and again, batch after batch.
    batches = list(dict.fromkeys(module.seen))
    assert len(batches) == 6, "three epochs of two batches"
    expected = sum(equiv / size for equiv, size in batches) / len(batches)
    assert found["equiv/train/loss/L_equiv"] == pytest.approx(expected, rel=1e-9)
    assert 0.01 < found["equiv/train/loss/share"] < 0.9


@pytest.mark.slow
def test_places_declared_as_vectors_would_be_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative controls: an output that moves with the centre, rotated about the origin; and no rotating at all."""
    module, found = fitted("dense", "data", tmp_path)
    as_point = found["equiv/train/loss/L_equiv"]
    schema = ep.Schema(inputs={"x_t": ep.point}, outputs={"0": ep.vector})
    x, mask = next(iter(loader("dense")))
    probe = ep.Probe(module.net, schema)
    torch.manual_seed(0)
    wrong = probe.replay(lambda: module.loss((x, mask)), EXACT).equiv
    assert wrong > 10 * as_point
    monkeypatch.setattr(
        "equiv_probe.rotations.drawing.draw",
        lambda plan, generator, count: torch.eye(3).double().expand(2, 12, count, 3, 3),
    )
    right = ep.Probe(module.net, ep.Schema(inputs={"x_t": ep.point}, outputs={"0": ep.point}))
    assert right.replay(lambda: module.loss((x, mask)), EXACT).equiv == pytest.approx(0, abs=1e-12)


def test_a_batch_of_graphs_is_that_of_dense_structures() -> None:
    """The same structures, noise and times in both layouts: the same numbers."""
    found = []
    for kind in ("dense", "graphs"):
        batch = next(iter(loader(kind)))
        module = Flow(kind, "velocity")
        torch.manual_seed(3)
        replay = ep.Probe(module.net, plan=EXACT).replay(lambda module=module, batch=batch: module.loss(batch))
        found.append((replay.total, replay.equiv))
    assert isinstance(batch, Batch)
    assert found[0] == pytest.approx(found[1], rel=1e-10)
