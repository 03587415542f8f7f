"""What the callback costs: a transformer force field under Lightning, with and without it, alternating.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_lightning.py [--pairs 5] [--steps 200]

Prints what the callback takes at a step at which nothing is due, rows for the loggers every 50 steps included: in
microseconds, and over a step of the same run. Then the median over pairs of the ratio of
CPU times (which other programs on the machine disturb less than the clock), and the smallest and largest: at the
default cadence, with validation, and with a measurement in every step.
"""

from __future__ import annotations

import argparse
import functools
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from equiv_probe_lightning import EquivarianceCallback
from equiv_probe_lightning.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable

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


class Spent:
    """Seconds of each call of something, without those of the user's step that it calls.

    By the clock: to ask for processor time takes longer than what is looked for.
    """

    def __init__(self) -> None:
        self.each: list[float] = []

    def around(self, function: Callable[..., Any], users: Spent | None = None) -> Callable[..., Any]:
        """The function, whose seconds count.

        Args:
            function: to call.
            users: whose last seconds are taken off.
        """

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            found = function(*args, **kwargs)
            seconds = time.perf_counter() - began
            self.each.append(seconds if users is None else seconds - users.each[-1])
            return found

        functools.update_wrapper(timed, function)
        return timed


def between(steps: int) -> str:
    """What the callback takes at steps at which nothing is due, of one run."""
    before, after, users = Spent(), Spent(), Spent()
    callback, call, step = EquivarianceCallback(verbose=False, every=10**9), Step.__call__, ForceField.training_step
    callback.on_train_batch_end = after.around(callback.on_train_batch_end)  # type: ignore[method-assign]
    Step.__call__ = before.around(call, users)  # type: ignore[method-assign]
    ForceField.training_step = users.around(step)
    try:
        whole = seconds(callback, steps, validate=False) / steps
    finally:
        Step.__call__, ForceField.training_step = call, step  # type: ignore[method-assign]
    each = sorted(a + b for a, b in zip(before.each[-steps:], after.each[-steps:], strict=True))
    each = each[: -max(1, steps // 100)]  # the largest are those at which the system did something else
    own = statistics.mean(each)
    return f"between two measurements: {1e6 * own:.1f} µs of a step of {1e3 * whole:.1f} ms, {1 + own / whole:.5f}"


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
    print(between(4 * args.steps), flush=True)
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
