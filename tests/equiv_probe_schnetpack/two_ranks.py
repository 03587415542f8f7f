"""Validates and trains an `AtomisticTask` on two processes, and writes what came of it: started by a test."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, DistributedSampler

from equiv_probe_schnetpack import EquivarianceCallback
from tests.equiv_probe_schnetpack.spk_models import Quadratic, batch, copied, make_task

MATRIX = torch.tensor([[2.0, 0.3, 0.0], [0.1, 1.0, 0.2], [0.0, -0.4, 0.5]], dtype=torch.float64)
EXACT = {"design": "lebedev-5", "replicates": 2}
SEEDS = range(4)


def batches() -> list[dict[str, Any]]:
    """Every one with the same molecules, displaced by others' noise."""
    return [batch(None, 10 * seed) for seed in SEEDS]


def trained(folder: str, callbacks: list[Any]) -> dict[str, Any]:
    """The metrics of a validation, and the weights after a training that follows it."""
    given = batches()
    sampler = DistributedSampler(given, 2, int(os.environ.get("LOCAL_RANK", "0")), shuffle=False)
    loader = DataLoader([copied(one) for one in given], batch_size=None, sampler=sampler)
    task = make_task(Quadratic(MATRIX))
    del task.log
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=folder,
        devices=2,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        inference_mode=False,
        logger=False,
        max_epochs=2,
        num_sanity_val_steps=0,
        precision="64-true",
        strategy="ddp",
        use_distributed_sampler=False,
    )
    trainer.validate(task, loader, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    trainer.fit(task, loader, loader)
    return {"metrics": metrics, "matrix": task.model.matrix.detach(), "rank": trainer.global_rank}


def main(folder: str) -> None:
    asked = EquivarianceCallback(every=1, light=EXACT, plan=EXACT, full=1, cost=None, verbose=False)
    for name, callbacks in (("probed", [asked]), ("bare", [])):
        found = trained(folder, callbacks)
        torch.save(found, f"{folder}/{name}.{found['rank']}")


if __name__ == "__main__":
    main(sys.argv[1])
