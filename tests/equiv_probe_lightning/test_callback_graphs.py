"""The callback where batches are PyG's: closed forms on a Trainer, and a plain loop under ``equiv-probe run``."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

import equiv_probe as ep
from equiv_probe.results.report import Report
from equiv_probe_lightning import EquivarianceCallback

from .. import warm_processes
from .lightning_models import MATRIX, trainer

ROOT = Path(ep.__file__).parents[1]
EXACT = ep.RotationPlan("tetrahedral", replicates=2)
SIZES = (3, 5, 4, 7) * 4


def graphs() -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for n in SIZES:
        pos = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        made.append(Data(pos=pos - pos.mean(0), force=1.5 * (pos - pos.mean(0)), z=torch.ones(n)))
    return made


class Linear(nn.Module):
    """``f(x) = M x``, also of what a graph holds."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(MATRIX.clone())

    def forward(self, data: Any) -> dict[str, Tensor]:
        return {"forces": data.pos @ self.matrix.T}


class OnGraphs(pl.LightningModule):
    def __init__(self, lr: float = 0.0) -> None:
        super().__init__()
        self.net, self.lr = Linear(), lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = (self.net(batch)["forces"] - batch.force).square().mean()
        self.log("train_loss", loss, batch_size=batch.num_graphs)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", (self.net(batch)["forces"] - batch.force).square().mean(), batch_size=batch.num_graphs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


@pytest.mark.slow
def test_the_share_is_the_closed_form(tmp_path: Path) -> None:
    callback = EquivarianceCallback(every=1, light=EXACT, plan=EXACT, full=1, cost=None, window=100)
    fit = trainer(tmp_path, [callback])
    fit.fit(OnGraphs(), DataLoader(graphs(), 4), DataLoader(graphs(), 4))
    assert callback.probe is not None
    assert not callback.probe.failures
    # E|g⁻¹Mg x − t x|² = (tr(MᵀM)/3 − 2 t tr(M)/3 + t²)|x|², and the twirl is tr(M)/3 x; t = 3/2.
    ratio = (4 / 3 - 1.5) ** 2 / (6 / 3 - 2 * 1.5 * 4 / 3 + 1.5**2)
    for stage in ("train", "val"):
        found = callback.probe.compute(window=False)
        assert found[f"equiv/{stage}/loss/share"] == pytest.approx(1 - ratio, rel=1e-9)


@pytest.mark.slow
def test_training_on_graphs_is_bit_identical(tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [EquivarianceCallback(every=3, augment=False)]):
        torch.manual_seed(0)
        module = OnGraphs(lr=1e-2)
        trainer(tmp_path, callbacks, max_epochs=20).fit(module, DataLoader(graphs(), 4, shuffle=True))
        weights.append(module.net.matrix.detach())
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], MATRIX), "it did train"


@pytest.mark.slow
def test_a_plain_loop_over_graphs_under_run(tmp_path: Path) -> None:
    """Labels are found by name, so the report has a share; and the loop trains as without."""
    (tmp_path / "train.py").write_text(
        textwrap.dedent("""
        import torch
        from torch_geometric.data import Data
        from torch_geometric.loader import DataLoader

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.SiLU(), torch.nn.Linear(16, 3))
            def forward(self, data):
                return {"force": self.layers(data.pos)}

        torch.manual_seed(0)
        graphs = [Data(pos=torch.randn(n, 3), force=torch.randn(n, 3)) for n in (3, 5, 4) * 8]
        net = Net()
        optimizer = torch.optim.Adam(net.parameters())
        for _ in range(10):
            for batch in DataLoader(graphs, 4, shuffle=True):
                optimizer.zero_grad()
                (net(batch)["force"] - batch.force).square().mean().backward()
                optimizer.step()
        print("weights", float(sum(p.double().sum() for p in net.parameters())))
        """)
    )
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    options = ["run", "-s", "every=5", "-o", "r.json", "train.py"]
    plain, watched = (
        warm_processes.run(*command, cwd=tmp_path, env=path, imported=warm_processes.GRAPHS)
        for command in ((tmp_path / "train.py",), (warm_processes.EQUIV_PROBE, *options))
    )
    assert (plain.returncode, watched.returncode) == (0, 0), watched.stderr
    assert plain.stdout.splitlines()[0] == watched.stdout.splitlines()[0], "the same weights"
    report = Report.load(tmp_path / "r.json")
    found = report["train/force"]
    assert found.structures == 4 * 10, "the window"
    assert found.labelled is not None
    assert 0 < found.labelled.share < 1
    assert "train/force" in watched.stdout
