"""What the callback costs: a transformer force field under Lightning, with and without it, alternating.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_lightning.py [--pairs 5] [--steps 200]

Prints the median over pairs of the ratio of CPU times (which other programs on the machine disturb less than the
clock), and the smallest and largest: at the default cadence, with validation, and with a measurement in every step.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from equiv_probe_lightning import EquivarianceCallback

sys.path.insert(0, str(Path(__file__).parents[2] / "integrations" / "lightning_training"))
from train import MOLECULES, ForceField, load


def seconds(callback: EquivarianceCallback | None, steps: int, *, validate: bool) -> float:
    """CPU seconds of fitting."""
    pl.seed_everything(0, verbose=False)
    data = load(MOLECULES)
    # A set of a size that people train on, so that an epoch is longer than two steps.
    loader = DataLoader(torch.utils.data.ConcatDataset([data] * 50), 32, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=pl.loggers.CSVLogger(folder),
            callbacks=[callback] if callback is not None else [],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            val_check_interval=50,
            limit_val_batches=10 if validate else 0,
            num_sanity_val_steps=0,
        )
        began = time.process_time()
        trainer.fit(ForceField(), loader, DataLoader(torch.utils.data.ConcatDataset([data] * 6), 32))
        return time.process_time() - began


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    cases: dict[str, tuple[dict[str, Any], bool]] = {
        "default, training alone": ({}, False),
        "default, with validation": ({}, True),
        "every step": ({"every": 1}, False),
    }
    seconds(None, 10, validate=False)
    for name, (options, validate) in cases.items():
        ratios = []
        for _ in range(args.pairs):
            without = seconds(None, args.steps, validate=validate)
            ratios.append(
                seconds(EquivarianceCallback(verbose=False, **options), args.steps, validate=validate) / without
            )
        print(f"{name}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


if __name__ == "__main__":
    main()
