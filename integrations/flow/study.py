"""The whole study in one command: train three times, measure, audit the samplers; tables and figures.

    python integrations/flow/study.py [--config small|ligands|adk|gpu] [--predict velocity|noise|data] [--seed N]

An unconstrained transformer with the data as they are, the same with random-rotation augmentation, and an equivariant
network. Runs that were stopped are continued; what is finished is not done again. Writes `results/<config>_*.csv` and
`.png`, and prints the tables that stand in the README.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import evaluate
import figures
import torch
from rich.console import Console
from rich.table import Table
from train import HERE, Config, Run

from equiv_probe.scaling.table import write_csv

RUNS = {
    "transformer": ("transformer", False),
    "transformer, augmented": ("transformer", True),
    "EGNN": ("egnn", False),
}


def train_all(config: Config, name: str, device: str) -> dict[str, Run]:
    """Train, or continue, every run."""
    runs = {}
    for title, (model, augment) in RUNS.items():
        folder = HERE / "runs" / name / f"{model}{'-rotated' if augment else ''}"
        runs[title] = Run(config, model, augment=augment, out=folder, device=device).train()
    return runs


def steps_of(runs: dict[str, Run], stem: Path) -> Table:
    """Losses and share against the step; the table shows some of the rows."""
    logs = {title: [row for row in run.rows if row["stage"] == "val"] for title, run in runs.items()}
    keys = ["step", "seconds", "loss", *(f"{n}{e}" for n in ("L_total", "L_equiv", "share") for e in ("", "_stderr"))]
    write_csv(
        stem.with_name(f"{stem.name}_steps.csv"), [{"run": t, **{k: r[k] for k in keys}} for t in logs for r in logs[t]]
    )
    figures.against_step(logs, stem.with_name(f"{stem.name}_steps.png"))
    table = Table("run", "step", "loss in the data's frame", "L_total", "L_equiv", "share, %", title="Held out")
    for title, rows in logs.items():
        shown = [row for row in rows if row["step"] == 0 or row["step"] > 20]
        for row in shown[:: max(1, len(shown) // 8)] + (
            [shown[-1]] if (len(shown) - 1) % max(1, len(shown) // 8) else []
        ):
            share = f"{100 * row['share']:.2g} ± {100 * row['share_stderr']:.1g}"
            equiv = f"{row['L_equiv']:.3g} ± {row['L_equiv_stderr']:.1g}"
            table.add_row(title, str(row["step"]), f"{row['loss']:.3f}", f"{row['L_total']:.3f}", equiv, share)
    return table


def evaluated(run: Run, rounds: int, samples: int) -> dict[str, list[dict[str, Any]]]:
    """Bins of diffusion time and audits of the sampler; kept beside the checkpoint, for a study that is continued."""
    path, asked = run.out / "evaluation.json", {"rounds": rounds, "samples": samples}
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        if stored["asked"] == asked:
            return stored["found"]
    found = {"times": evaluate.by_time(run, rounds), "samplers": evaluate.by_sampler(run, samples)}
    path.write_text(json.dumps({"asked": asked, "found": found}, indent=1) + "\n")
    return found


def times_of(found: dict[str, list[dict[str, Any]]], stem: Path) -> Table:
    """Losses and share in bins of diffusion time."""
    write_csv(
        stem.with_name(f"{stem.name}_times.csv"), [{"run": title, **row} for title in found for row in found[title]]
    )
    figures.against_time(found, stem.with_name(f"{stem.name}_times.png"))
    table = Table("run", "t", "L_total", "L_equiv", "share, % [95 %]", title="Held out, by diffusion time")
    for title, rows in found.items():
        for row in rows:
            share = ", ".join(f"{100 * row[key]:.2g}" for key in ("share_low", "share_high"))
            cells = f"{row['L_total']:.3f}", f"{row['L_equiv']:.3g}", f"{100 * row['share']:.2g} [{share}]"
            table.add_row(title, f"{row['low']:.1f} to {row['high']:.1f}", *cells)
    return table


def samplers_of(found: dict[str, list[dict[str, Any]]], stem: Path) -> Table:
    """Deviation, cost and loss of every network as it is, in random frames and averaged."""
    rows = [{"run": title, **row} for title in found for row in found[title]]
    write_csv(stem.with_name(f"{stem.name}_samplers.csv"), rows)
    columns = ("run", "network in the sampler", "time", "held-out loss", "deviation, Å [95 %]", "distances off, Å")
    table = Table(*columns, title=f"Sampler, {evaluate.STEPS} Euler steps")
    for row in rows:
        deviation = f"{row['deviation']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        plain = next(one["seconds"] for one in found[row["run"]])
        cells = f"× {row['seconds'] / plain:.1f}", f"{row['loss']:.4f}", deviation, f"{row['distances']:.2f}"
        table.add_row(row["run"], row["network"], *cells)
    scale = ", ".join(f"{found[title][0]['scale']:.3g} Å ({title})" for title in found)
    table.caption = f"End points of different noise lie apart by {scale}."
    return table


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--predict", choices=("velocity", "noise", "data"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, help="of the weights, the data's order and what is held out")
    parser.add_argument("--rounds", type=int, default=2, help="of noise and times, for the table by diffusion time")
    parser.add_argument("--samples", type=int, default=16, help="that are generated for the audit")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    config = Config.read(args.config, predict=args.predict, steps=args.steps, seed=args.seed)
    asked = (args.predict, args.steps, f"seed{args.seed}" if args.seed else None)
    name = "-".join([args.config, *(str(one) for one in asked if one)])
    runs, stem = train_all(config, name, args.device), args.results / name
    args.results.mkdir(parents=True, exist_ok=True)
    console = Console(width=130)
    console.print(steps_of(runs, stem))
    found = {title: evaluated(run, args.rounds, args.samples) for title, run in runs.items()}
    console.print(times_of({title: one["times"] for title, one in found.items()}, stem))
    console.print(samplers_of({title: one["samplers"] for title, one in found.items()}, stem))


if __name__ == "__main__":
    main()
