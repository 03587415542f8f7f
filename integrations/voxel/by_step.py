"""Both losses, the share and both gradients on the way through long runs on a small box: does the share rise again?

    python integrations/voxel/by_step.py [--runs augmented few plain] [--seeds 0 1]

Trains the preset `dip` of `denoise.py` (the same command goes on with what was stopped): `augmented` rotates the atoms
at random before they become a density, as VoxMol does; `few` does so with 50 molecules; `plain` does not. At every mark
16 held-out molecules with fixed noise are rotated by all 24 rotations of the cube: exact. Writes
`results/dip_by_step.csv` mark by mark, and prints the tables.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from denoise import PRESETS, Task, train
from figures import RESULTS
from landscape import loss_of
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional
from training import generator_for

sys.path.append(str(Path(__file__).parents[1] / "learning_rotation"))
from flow_and_voxel import Row, correlation, losses_and_gradients, read

from equiv_probe.scaling.table import write_csv

MOLECULES, BLOCKS = 16, 4
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "augmented": ("so3", {}),
    "few": ("so3", {"molecules": 50}),
    "plain": ("none", {}),
}


def filtered(clean: Tensor, noisy: Tensor, reach: int = 2) -> float:
    """The least loss of a linear filter that depends on the distance alone: equivariant, and blind to any shape.

    Args:
        clean: grids ``(B, C, D, H, W)``.
        noisy: likewise; every channel of the one is a sum over all of the other, and a constant.
        reach: of the filter along each axis, in voxels.
    """
    steps = range(-reach, reach + 1)
    padded, shells = functional.pad(noisy.double(), [reach] * 6), dict[tuple[int, ...], Tensor]()
    for shift in product(steps, steps, steps):
        i, j, k = (slice(reach + one, reach + one + noisy.shape[-1]) for one in shift)
        shell = tuple(sorted(map(abs, shift)))
        shells[shell] = shells.get(shell, 0.0) + padded[..., i, j, k]
    given = torch.cat([torch.ones_like(padded[:, :1, reach:-reach, reach:-reach, reach:-reach]), *shells.values()], 1)
    x, y = (grid.movedim(1, -1).flatten(0, -2) for grid in (given, clean.double()))
    return float((x @ torch.linalg.lstsq(x, y).solution - y).square().mean())


def measure(task: Task) -> dict[str, float]:
    """Both losses and gradients of the weights that the network has now, and the losses of two guesses.

    ``L_zero`` is that of zeros, and ``L_filter`` that of the best linear filter on these very grids.
    """
    task.network.eval()
    loss = loss_of(task, 0, MOLECULES, per_structure=True)
    loss.chunk = MOLECULES // BLOCKS
    clean = task.density(task.molecules[:MOLECULES])
    noisy = task.noisy(clean, generator_for(task.device, task.config.seed, 0, 4))  # as in `loss_of`
    guesses = {"L_zero": float(clean.square().mean()), "L_filter": filtered(clean, noisy)}
    return losses_and_gradients(loss, BLOCKS) | guesses


def main() -> None:
    """Train, measure, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--until", type=int, help="stop training at this step, as if interrupted")
    args = parser.parse_args()
    path = RESULTS / "dip_by_step.csv"
    rows = read(path)
    for name in args.runs:
        kind, changes = RUNS[name]
        for seed in args.seeds:
            config = replace(PRESETS["dip"], seed=seed, folder=f"runs-dip/{name}-{seed}", **changes)
            task, run = train(config, kind, args.until)
            done = {row["step"] for row in rows if (row["run"], row["seed"]) == (name, seed)}
            for step in (step for step in config.marks if step not in done and run.weights_at(step).exists()):
                weights = torch.load(run.weights_at(step), map_location=task.device, weights_only=True)
                task.network.load_state_dict(weights)
                rows.append({"run": name, "seed": seed, "step": step, **measure(task)})
                write_csv(path, rows)
    table(rows)


def table(rows: list[Row]) -> None:
    """Losses and share by run, seed and step; the correlation of gradient ratio and share."""
    shown = Table(
        "run", "seed", "step", "L_mean", "of the best filter's", "L_equiv", "share, %", "‖∇L_equiv‖ / ‖∇L_mean‖"
    )
    for row in rows:
        fields = [f"{row['L_mean']:.3g}", f"{row['L_mean'] / row['L_filter']:.3f}", f"{row['L_equiv']:.3g}"]
        ratio = row["gradient_equiv"] / row["gradient_mean"]
        key = row["run"], f"{row['seed']:.0f}", f"{row['step']:.0f}"
        shown.add_row(*key, *fields, f"{100 * row['share']:.2g}", f"{ratio:.2g}")
    Console(width=120).print(shown)
    for name in dict.fromkeys(row["run"] for row in rows):
        pearson, spearman, count = correlation([row for row in rows if row["run"] == name and row["step"] > 0])
        print(f"{name}: gradient ratio and share, logarithms: Pearson {pearson:.2f}, Spearman {spearman:.2f}, {count}")


if __name__ == "__main__":
    main()
