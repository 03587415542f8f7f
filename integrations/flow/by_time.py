"""Both losses, the share and both gradients at the times of Shen et al., on the way through long runs.

    python integrations/flow/by_time.py [--config dip] [--runs augmented plain] [--seeds 0 1 2]

Trains what is not trained yet (the same command goes on with what was stopped), and measures at every mark of the
configuration: held-out structures with fixed noise, at fixed times, under fixed rotations. ``t = 0`` is noise and
``t = 1`` data, as in the paper. Writes `results/<config>_by_time.csv` mark by mark, and prints the tables.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import flow
import torch
from rich.console import Console
from rich.table import Table
from train import EVALUATION_SEED, HERE, Config, Run

import equiv_probe as ep

sys.path.append(str(Path(__file__).parents[1] / "learning_rotation"))
from flow_and_voxel import Row, correlation, losses_and_gradients, read, write

if TYPE_CHECKING:
    from torch import Tensor

TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
BLOCKS = 4
PLAN = ep.RotationPlan("tetrahedral", replicates=2)
"""24 rotations of every structure; products of the two independent twelves make both losses unbiased."""


def fixed_batches(run: Run, t: float, size: int) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """What the network is given at one time, and what it should say: held-out structures, with noise of their own.

    Args:
        run: whose held-out structures.
        t: from 0, noise, to 1, data.
        size: structures in each of the blocks; their noise is the same at all times.
    """
    inputs, targets = [], []
    for k in range(BLOCKS):
        x1, z, mask = run.held.take(torch.arange(k * size, (k + 1) * size), run.device)
        torch.manual_seed(EVALUATION_SEED + k)
        x0, _ = flow.draw(x1, mask)
        inputs.append({"x": torch.lerp(x0, x1, t), "t": x1.new_full((size,), t), "z": z, "mask": mask})
        targets.append(flow.target(x0, x1, run.config.predict))
    return inputs, targets


def fixed_loss(run: Run, t: float, size: int) -> ep.analysis.OrbitLoss:
    """The decomposed loss at one time, as a function of the weights; see :func:`fixed_batches`."""
    inputs, targets = fixed_batches(run, t, size)
    schema, masks = flow.schema(run.config.predict), [given["mask"] for given in inputs]
    return ep.analysis.OrbitLoss(
        lambda given: run.net(**given), inputs, targets, schema, PLAN, center="origin", mask=masks, per_structure=True
    )


def guess(run: Run, t: float, size: int) -> float:
    """The least loss of a multiple of the input: equivariant, and blind to what a molecule looks like."""
    inputs, targets = fixed_batches(run, t, size)
    x, y = (torch.cat([one.flatten() for one in some]) for some in ([given["x"] for given in inputs], targets))
    count = 3 * sum(int(given["mask"].sum()) for given in inputs)  # empty slots hold zeros
    return float((y - (x @ y / (x @ x)) * x).square().sum() / count)


def measure(run: Run, step: int, size: int) -> list[Row]:
    """At the weights that a run has kept at a step: a row for each time."""
    run.net.load_state_dict(torch.load(run.weights_at(step), map_location=run.device, weights_only=True))
    run.net.eval()
    return [
        {"t": t, **losses_and_gradients(fixed_loss(run, t, size), BLOCKS), "L_guess": guess(run, t, size)}
        for t in TIMES
    ]


def tables(rows: list[Row], marks: tuple[int, ...]) -> None:
    """Share by time and step, and the correlation of gradient ratio and share, over all seeds of a run."""
    for name in dict.fromkeys(row["run"] for row in rows):
        shown = [step for step in marks if step in {0, 100, 300, 1000, 3000, 10_000, 20_000}]
        heads = [*(f"{step:,}" for step in shown), "Pearson", "Spearman", "points"]
        table = Table("t", *heads, title=f"{name}: share, %, by seed; gradient ratio against share, logarithms")
        for t in TIMES:
            mine = [row for row in rows if row["run"] == name and row["t"] == t]
            cells = [", ".join(f"{100 * row['share']:.2g}" for row in mine if row["step"] == step) for step in shown]
            pearson, spearman, count = correlation([row for row in mine if row["step"] > 0])
            table.add_row(f"{t:g}", *cells, f"{pearson:.2f}", f"{spearman:.2f}", str(count))
        Console(width=150).print(table)


def main() -> None:
    """Train, measure, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="dip")
    parser.add_argument("--runs", nargs="*", default=["augmented", "plain"], choices=["augmented", "plain"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--until", type=int, help="stop training at this step, as if interrupted")
    parser.add_argument("--steps", type=int, nargs="*", help="which of the marks are measured; all by default")
    parser.add_argument("--size", type=int, default=6, help=f"held-out structures in each of {BLOCKS} blocks")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    path = HERE / "results" / f"{args.config}_by_time.csv"
    rows = read(path)
    for name in args.runs:
        for seed in args.seeds:
            config = Config.read(args.config, seed=seed)
            folder = HERE / "runs" / args.config / f"{name}-{seed}"
            run = Run(config, augment=name == "augmented", out=folder, device=args.device).train(args.until)
            if run.augmentation is not None:
                run.augmentation.remove()
            done = {row["step"] for row in rows if (row["run"], row["seed"]) == (name, seed)}
            for step in args.steps or config.marks:
                if step not in done and run.weights_at(step).exists():
                    own = {"run": name, "seed": seed, "step": step}
                    rows += [own | row for row in measure(run, step, args.size)]
                    rows.sort(key=lambda row: (row["run"], row["seed"], row["step"]))
                    write(path, rows)
    tables(rows, config.marks)


if __name__ == "__main__":
    main()
