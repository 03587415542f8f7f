"""LightningModules for tests: what they break is known, or they are as awkward as users' code is."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchmetrics import MeanAbsoluteError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MATRIX = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
"""``f(x) = M x`` with labels ``y = t x``: twirl ``4/3 x``, so ``L_mean = (t − 4/3)² ⟨x²⟩``."""


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(MATRIX.clone())

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return {"forces": (pos - pos.mean(-2, keepdim=True)) @ self.matrix.T}


class LinearModule(pl.LightningModule):
    """Batches of one kind; a learning rate of zero keeps the closed form."""

    def __init__(self, kind: str = "tuple", lr: float = 0.0) -> None:
        super().__init__()
        self.net, self.kind, self.lr = Linear(), kind, lr

    def loss(self, batch: Any) -> Tensor:
        x, y = parts(batch, self.kind)
        return (self.net(x)["forces"] - y).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=8)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self.loss(batch)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


class Pair:
    """A batch of no kind that anybody knows."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


def parts(batch: Any, kind: str) -> tuple[Tensor, Tensor]:
    if kind == "tensor":
        return batch, 1.5 * batch
    if kind == "dict":
        return batch["pos"], batch["forces"]
    if kind == "custom":
        return batch.x, batch.y
    return batch


def centred(count: int, seed: int = 0, atoms: int = 5) -> Tensor:
    x = torch.randn(count, atoms, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x - x.mean(-2, keepdim=True)


def loader(kind: str = "tuple", count: int = 64, batch_size: int = 8, seed: int = 0) -> DataLoader[Any]:
    x = centred(count, seed)
    if kind == "tensor":
        return DataLoader(x, batch_size=batch_size)
    collate = None
    if kind == "dict":

        def collate(items: list[Any]) -> Any:
            return {"pos": torch.stack([a for a, _ in items]), "forces": torch.stack([b for _, b in items])}

    elif kind == "custom":

        def collate(items: list[Any]) -> Any:
            return Pair(torch.stack([a for a, _ in items]), torch.stack([b for _, b in items]))

    return DataLoader(TensorDataset(x, 1.5 * x), batch_size=batch_size, collate_fn=collate)


class Noise(Dataset[tuple[Tensor, Tensor]]):
    """Samples that draw from the worker's own random state."""

    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(4, 3) + index / 80
        return x, 0.3 * x + 0.1 * torch.randn(4, 3)


class Awkward(pl.LightningModule):
    """Dropout, batch norm, noise, metrics with state, lists that grow, prints, and steps that write into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.Dropout(0.2), nn.Linear(32, 12)
        )
        self.mae = MeanAbsoluteError()
        self.seen: dict[str, list[Tensor]] = {"val": []}
        self.steps = 0

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return {"forces": self.net(pos - pos.mean(-2, keepdim=True)).reshape(pos.shape)}

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        self.steps += 1
        x += 0.01 * torch.randn_like(x)  # the batch itself
        difference = self(x)["forces"] - y
        loss = difference.square().mean()
        self.log_dict({"train_loss": loss, "train_mae": difference.abs().mean(), "lucky": torch.rand(())})
        self.logger.log_metrics({"by_hand": float(self.steps)}, step=self.steps)  # type: ignore[union-attr]
        return {"loss": loss, "forces": difference.detach()}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        forces = self(x)["forces"]
        self.mae.update(forces, y)
        self.log("val_mae", self.mae)
        self.log("val_loss", (forces - y).square().mean())
        self.seen["val"].append(forces.sum())

    def on_validation_epoch_end(self) -> None:
        self.log("val_seen", torch.stack(self.seen["val"]).sum())
        self.print(f"{len(self.seen['val'])} batches")
        self.seen["val"].clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


@contextmanager
def heard() -> Iterator[list[str]]:
    """What is said by Lightning's logger, which may or may not hand it on to others."""
    lines: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("pytorch_lightning"), Listening()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def trainer(path: Path, callbacks: list[Any], **kwargs: Any) -> pl.Trainer:
    given: dict[str, Any] = {
        "accelerator": "cpu",
        "callbacks": callbacks,
        "default_root_dir": path,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "log_every_n_steps": 1,
        "logger": False,
        "max_epochs": 1,
        "num_sanity_val_steps": 0,
        **kwargs,
    }
    return pl.Trainer(**given)
