"""What the share depends on: the augmented transformer with one thing changed at a time.

    python integrations/flow/dependence.py [--steps 3000] [--only narrow fewer …]

Each line of `VARIATIONS` is a run of `train.py`; one that was stopped is continued. Writes `results/dependence.csv` and
the figure, and prints the table that stands in the README.
"""

from __future__ import annotations

import argparse
from typing import Any

import figures
import torch
from rich.console import Console
from rich.table import Table
from train import HERE, LOGGED, Config, Run

from equiv_probe.scaling.table import write_csv

MARKS = (0, 100, 300, 1000, 3000)
VARIATIONS: dict[str, dict[str, Any]] = {
    "as in the study": {},
    "36 k weights": {"width": 32, "layers": 2},
    "1.9 M weights": {"width": 192},
    "160 structures": {"structures": 160},
    "SGD, momentum": {"optimizer": "sgd", "rate": 0.1},
    "constant rate": {"schedule": "constant", "rate": 5e-4},
}


def main() -> None:
    """Train every variation and show the share against the step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--only", nargs="*", default=list(VARIATIONS), choices=list(VARIATIONS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    rows, table = (
        [],
        Table("run", "weights", "step", "training loss", "L_total", "L_equiv", "share, %", title="Held out"),
    )
    for name in args.only:
        config = Config.read("small", steps=args.steps, evaluations=12, marks=MARKS, **VARIATIONS[name])
        folder = HERE / "runs" / "dependence" / name.replace(" ", "-").replace(",", "")
        run = Run(config, augment=True, out=folder, device=args.device).train()
        weights = sum(parameter.numel() for parameter in run.net.parameters())
        training = {row["step"]: row["L_total"] for row in run.rows if row["stage"] == "train"}
        for row in (row for row in run.rows if row["stage"] == "val"):
            step, train = row["step"], training.get(row["step"], float("nan"))
            measured = {f"{key}{error}": row[f"{key}{error}"] for key in LOGGED for error in ("", "_stderr")}
            rows.append(
                {"run": name, "weights": weights, "step": step, "train_L_total": train, "loss": row["loss"], **measured}
            )
            if step in MARKS:
                share = f"{100 * row['share']:.2g} ± {100 * row['share_stderr']:.1g}"
                cells = f"{weights:,}", str(step), f"{train:.3f}", f"{row['L_total']:.3f}", f"{row['L_equiv']:.3g}"
                table.add_row(name, *cells, share)
    write_csv(HERE / "results" / "dependence.csv", rows)
    figures.against_step(
        {name: [row for row in rows if row["run"] == name] for name in args.only}, HERE / "results" / "dependence.png"
    )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
