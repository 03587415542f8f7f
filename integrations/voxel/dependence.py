"""What the share depends on: the denoiser with rotations of the cube, one thing changed at a time.

    python integrations/voxel/dependence.py [--only "160 molecules" …] [--steps 3000]

Each line of `VARIATIONS` is a run of 500 steps, some three minutes on one free thread (the largest eight); one that
was stopped is continued. Writes `results/dependence.csv` and the figure, and prints the table of the README.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from denoise import Denoising, train
from figures import RESULTS, curves

MARKS = (0, 100, 300, 500, 1000)
VARIATIONS: dict[str, dict[str, Any]] = {
    "as in the study": {},
    "23 k weights": {"widths": (4, 8, 16)},
    "356 k weights": {"widths": (16, 32, 64)},
    "160 molecules": {"molecules": 160},
    "SGD, momentum": {"optimizer": "sgd", "rate": 0.2},
    "constant rate": {"schedule": "constant", "rate": 1e-3},
}


def main() -> None:
    """Train every variation and show both losses and the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(VARIATIONS), choices=list(VARIATIONS))
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {}
    lines, marks = [], (*(k for k in MARKS if k < args.steps), args.steps)
    for name in args.only:
        folder = "runs-dependence/" + name.replace(" ", "-").replace(",", "")
        config = Denoising(steps=args.steps, evaluate=args.steps, marks=marks, folder=folder)
        task, run = train(replace(config, **VARIATIONS[name]), "cube")
        runs[name] = run.rows
        held = {round(row["step"]): row for row in run.rows if "held/share" in row}
        shares = [f"{100 * held[k]['held/share']:.2g} ± {100 * held[k]['held/share_stderr']:.1g} %" for k in marks]
        last = held[args.steps]
        weights = sum(parameter.numel() for parameter in task.network.parameters())
        losses = [f"{1e4 * last[f'held/{key}']:.3g}" for key in ("L_total", "L_equiv")]
        lines.append(" | ".join(["", name, f"{weights:,}", *shares, *losses, ""]).strip())
    heads = ["run", "weights", *(f"share, {k}" for k in marks), "`L_total`, 1e-4", "`L_equiv`, 1e-4"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", *lines, sep="\n")
    curves(runs, "dependence", "U-Net denoiser, rotations of the cube", RESULTS)


if __name__ == "__main__":
    main()
