"""Trains on one or two processes, and writes what came of it: started by a test, once for each rank."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import equiv_probe as ep
from equiv_probe_lightning import EquivarianceCallback

EXACT = ep.RotationPlan("tetrahedral", replicates=2)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)))

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return {"forces": (pos - pos.mean(-2, keepdim=True)) @ self.matrix.T}


class Module(pl.LightningModule):
    """``itself``: the step calls the LightningModule, whose own call is DDP's as well."""

    def __init__(self, itself: bool) -> None:
        super().__init__()
        self.net, self.itself = Linear(), itself

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return dict(self.net(pos))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return ((self if self.itself else self.net)(x)["forces"] - y).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-2)


def main(out: str, ranks: int, probed: bool, itself: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(48, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = TensorDataset(x, 1.5 * (x - x.mean(-2, keepdim=True)))
    # Rank r takes every second structure: one process's batch of 8 is two ranks' batches of 4. Lightning would shuffle.
    sampler = DistributedSampler(data, ranks, int(os.environ.get("LOCAL_RANK", "0")), shuffle=False)
    loader = DataLoader(data, batch_size=8 // ranks, sampler=sampler)
    callback = EquivarianceCallback(
        every=2,
        light=EXACT,
        plan=EXACT,
        full=1,
        cost=None,
        gradients=100,
        verbose=False,
        report=f"{out}.json",
        window=3,
    )
    keep = pl.callbacks.ModelCheckpoint(Path(out).parent, filename=Path(out).name)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        callbacks=[*([callback] if probed else []), keep],
        logger=False,
        use_distributed_sampler=False,
        max_epochs=2,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module(itself)
    trainer.fit(module, loader, loader)
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    torch.save({"matrix": module.net.matrix.detach(), "logged": logged}, f"{out}.{trainer.global_rank}")


if __name__ == "__main__":
    for which in ("child", "itself"):
        for probed, name in ((True, "two"), (False, "bare")):
            main(f"{sys.argv[1]}/{name}-{which}", 2, probed, which == "itself")
