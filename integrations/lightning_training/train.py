"""Train a plain transformer on molecular forces with Lightning, and watch the share of broken symmetry in its loss.

    python integrations/lightning_training/train.py --data ethanol.xyz [--augment] [--steps 3000] [--compare]

The data are any file that ASE reads, with energies and forces; without `--data` the 60 molecules that come with the
project. The probe is one callback; the module knows nothing of it. `--compare` trains twice from the same seed, with
and without the callback, and says whether weights and logged values are the same to the last bit.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import ase.io
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from equiv_probe_lightning import EquivarianceCallback

MOLECULES = Path(__file__).parents[1] / "force_field" / "data" / "molecules.extxyz"


class Transformer(nn.Module):
    """Atoms as tokens: element and coordinates in, one force vector out; nothing in it knows of rotation."""

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.element, self.place = nn.Embedding(100, width, padding_idx=0), nn.Linear(3, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.05, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.read = nn.Linear(width, 3)

    def forward(self, z: Tensor, pos: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Forces ``(B, N, 3)`` from elements ``(B, N)``, positions ``(B, N, 3)`` and which slots hold an atom."""
        held = mask[..., None]
        centre = (pos * held).sum(1, keepdim=True) / held.sum(1, keepdim=True)
        tokens = self.element(z) + self.place((pos - centre) * held)
        return {"forces": self.read(self.body(tokens, src_key_padding_mask=~mask)) * held}


class ForceField(pl.LightningModule):
    """An ordinary module: a loss, an optimiser, two logged numbers."""

    def __init__(self, rate: float = 1e-3) -> None:
        super().__init__()
        self.net, self.rate = Transformer(), rate

    def loss(self, batch: list[Tensor]) -> Tensor:
        """Mean squared error over the components of all atoms, (eV/Å)²."""
        z, pos, forces = batch
        mask = z > 0
        return ((self.net(z, pos, mask)["forces"] - forces).square() * mask[..., None]).sum() / (3 * mask.sum())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Log and return the loss."""
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the loss."""
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.rate)


def load(path: Path) -> TensorDataset:
    """Elements, positions (Å) and forces (eV/Å), padded with zeros."""
    molecules = ase.io.read(path, ":")
    forces = [m.arrays.get("REF_forces", m.arrays.get("forces")) for m in molecules]
    forces = [m.get_forces() if f is None else f for m, f in zip(molecules, forces, strict=True)]
    pad = lambda rows: nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)  # noqa: E731
    return TensorDataset(
        pad([m.numbers for m in molecules]), pad([m.positions for m in molecules]).float(), pad(forces).float()
    )


def train(
    args: argparse.Namespace, folder: str, callback: EquivarianceCallback | None
) -> tuple[ForceField, Path, float]:
    """One run; the module, its CSV log, and the seconds that fitting took."""
    pl.seed_everything(args.seed)
    data = load(args.data)
    held_out = max(1, len(data) // 10)
    fit, held = random_split(data, [len(data) - held_out, held_out])
    module = ForceField()
    trainer = pl.Trainer(
        max_steps=args.steps,
        logger=CSVLogger(folder),
        log_every_n_steps=10,
        callbacks=[callback] if callback is not None else [],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=not args.compare,
    )
    loaders = DataLoader(fit, args.batch, shuffle=True), DataLoader(held, args.batch)
    began = time.perf_counter()
    trainer.fit(module, *loaders)
    return module, Path(trainer.log_dir or folder) / "metrics.csv", time.perf_counter() - began


def rows(log: Path, prefix: str) -> list[dict[str, Any]]:
    """Lines of a CSV log that have the probe's columns, or the user's own."""
    with log.open() as file:
        lines = [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
    return [row for row in lines if f"{prefix}/share" in row] if prefix else lines


def show(log: Path) -> None:
    """The share against the step, in training and on held-out molecules."""
    for stage in ("train", "val"):
        logged = rows(log, f"equiv/{stage}/loss")
        key = f"equiv/{stage}/loss/L_total"  # the running estimate is logged with every line, and changes when measured
        found = [row for k, row in enumerate(logged) if k == 0 or row[key] != logged[k - 1][key]]
        print(f"\n{stage}: step, L_total, L_mean, L_equiv, share")
        for row in found[:: max(1, len(found) // 12)]:
            values = [float(row[f"equiv/{stage}/loss/{name}"]) for name in ("L_total", "L_mean", "L_equiv", "share")]
            total, mean, equiv, share = values
            error = row.get(f"equiv/{stage}/loss/share_stderr")  # from the second measurement on
            known = f" ± {100 * float(error):.2f}" if error is not None else ""
            print(f"{row['step']:>6} {total:9.4g} {mean:9.4g} {equiv:9.4g} {100 * share:6.2f}{known} %")


def compare(args: argparse.Namespace) -> None:
    """Train with and without the callback: the same to the last bit, and at what cost."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            train(args, folder, EquivarianceCallback(verbose=False) if probed else None)
            for probed in (False, True, False, True)
        ]
        plain, probed = (rows(runs[k][1], "") for k in (0, 1))
        own = [{k: v for k, v in row.items() if not k.startswith("equiv/")} for row in probed]
        own = [row for row in own if set(row) - {"epoch", "step"}]
        weights = zip(runs[0][0].state_dict().values(), runs[1][0].state_dict().values(), strict=True)
        print(f"weights bit-identical: {all(torch.equal(a, b) for a, b in weights)}")
        print(f"logged values bit-identical: {own == plain} ({len(plain)} lines)")
        ratios = [runs[k + 1][2] / runs[k][2] for k in (0, 2)]
        print(f"time with / without: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")


def main() -> None:
    """Train, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=MOLECULES)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--compare", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", ".*num_workers.*|.*number of training batches.*")
    if args.compare:
        compare(args)
        return
    _, log, _ = train(args, "lightning_logs", EquivarianceCallback(augment=args.augment))
    show(log)


if __name__ == "__main__":
    main()
