"""The whole study in one command: train every run of a configuration, then tables and figures.

    python integrations/force_field_training/study.py [--config small|ethanol|3bpa|sweeps|gpu] [--only RUN ...]

Runs that were stopped are continued, to the same numbers; what is finished is not done again. Writes
`results/<config>_steps.csv` and `.png`, and prints the table that stands in the README.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import figures
import torch
from rich.console import Console
from rich.table import Table
from settings import HERE, LANDMARKS, Settings
from training import Run

from equiv_probe.scaling.table import write_csv

RESULTS = HERE / "results"
KEPT = ("step", "seconds", "train_loss", "part", "output", "loss", "L_data")
ESTIMATES = tuple(f"{name}{error}" for name in ("L_total", "L_mean", "L_equiv", "share") for error in ("", "_stderr"))


def train(config: str, titles: list[str], device: str) -> dict[str, list[dict[str, Any]]]:
    """Train, or continue, the runs of a configuration, one after the other; their rows.

    Args:
        config: name or path.
        titles: the runs that are trained; of all others, those rows that are there are kept.
        device: where to train.
    """
    logs = {}
    for title, settings in Settings.read(config).items():
        folder = HERE / "runs" / Path(config).stem / title
        if title in titles:
            logs[title] = Run(settings, folder, device).train().rows
        elif (folder / "checkpoint.pt").exists():
            logs[title] = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)["rows"]
    return logs


def flat(logs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """All rows, each with the name of its run."""
    return [{"run": title, **{k: row[k] for k in (*KEPT, *ESTIMATES)}} for title, rows in logs.items() for row in rows]


def chosen(rows: list[dict[str, Any]], part: str = "held", output: str = "forces", loss: str = "mse") -> list[Any]:
    """The rows of one curve."""
    return [row for row in rows if (row["part"], row["output"], row["loss"]) == (part, output, loss)]


def table(logs: dict[str, list[dict[str, Any]]], output: str, loss: str) -> Table:
    """Both losses and the share at the landmarks and at the end."""
    shown = Table(
        "run", "step", "L_total", "L_equiv", "share, %", "seen: share, %", title=f"Held out, {output}, {loss}"
    )
    for title, rows in logs.items():
        curve, seen = chosen(rows, "held", output, loss), chosen(rows, "seen", output, loss)
        gap = {row["step"]: f"{100 * row['share']:.2g}" for row in seen}
        for row in curve:
            if row["step"] in LANDMARKS or row is curve[-1]:
                share = f"{100 * row['share']:.2g} ± {100 * row['share_stderr']:.1g}"
                equiv = f"{row['L_equiv']:.3g} ± {row['L_equiv_stderr']:.1g}"
                shown.add_row(title, str(row["step"]), f"{row['L_total']:.4g}", equiv, share, gap.get(row["step"], ""))
    return shown


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--only", nargs="*", help="names of runs; none: trains nothing, and shows what is there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order, and one core for one run
    runs = Settings.read(args.config)
    unknown = sorted(set(args.only or []) - set(runs))
    if unknown:
        parser.error(f"{unknown} are not runs of {args.config}: {', '.join(runs)}")
    logs = train(args.config, list(runs) if args.only is None else args.only, args.device)
    if not logs:
        parser.error(f"no run of {args.config} was trained yet")
    RESULTS.mkdir(exist_ok=True)
    stem = Path(args.config).stem
    write_csv(RESULTS / f"{stem}_steps.csv", flat(logs))
    sizes = {title: settings_of(runs[title]) for title in logs}
    (RESULTS / f"{stem}_runs.json").write_text(json.dumps(sizes, indent=1) + "\n")
    figures.against_step(
        {t: chosen(rows) for t, rows in logs.items()}, RESULTS / f"{stem}_steps.png", seconds=args.config != "sweeps"
    )
    for output, loss in (("forces", "mse"), ("forces", "mae-norm"), ("energy", "mse")):
        Console(width=110).print(table(logs, output, loss))


def settings_of(settings: Settings) -> dict[str, Any]:
    """What of a run differs from the defaults."""
    usual = vars(Settings())
    return {key: value for key, value in vars(settings).items() if value != usual[key]}


if __name__ == "__main__":
    main()
