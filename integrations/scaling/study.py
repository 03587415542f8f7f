"""The whole study in one command: train every size on every number of structures, then tables, fits and figures.

    python integrations/scaling/study.py [--config small|gpu] [--only-report]

Runs that were stopped are continued, and what is finished is not done again. Writes `results/<config>_runs.csv` (a row
for every run and step), `_laws.csv`, `_factors.csv` and figures, and prints the tables that stand in the README.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import figures
import fits
import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table
from setting import Setting
from train import HERE, Run, load

from equiv_probe import scaling
from equiv_probe.scaling.table import write_csv

STEPS = (0, 32, 128, 512, 1024, 2048, 4096, 8192, 16384)
"""That are shown."""


def read(name: str) -> dict[str, Any]:
    """A file of `configs`, by its name or path."""
    path = HERE / "configs" / f"{name}.yaml"
    config: dict[str, Any] = yaml.safe_load((path if path.exists() else Path(name)).read_text())
    return config


def plan(config: dict[str, Any]) -> list[Setting]:
    """Every run, stage by stage and seed by seed.

    The rate of learning falls with the root of the width, from that of the configuration at a width of 32.
    """
    common = {key: config[key] for key in ("batch", "held_out", "precision", "warmup") if key in config}
    found = []
    for stage in config["stages"]:
        models = [m for m in config["models"] if "models" not in stage or named(m).title in stage["models"]]
        cells = itertools.product(stage.get("seeds", config["seeds"]), stage["structures"], stage["sizes"], models)
        for seed, structures, size, model in cells:
            own = {**common, "seed": seed, "structures": structures, "steps": stage["steps"]}
            width = model["widths"][size]
            found.append(replace(named(model), **own, width=width, rate=model["rate"] * (32 / width) ** 0.5))
    return found


def named(model: dict[str, Any]) -> Setting:
    """A setting of a model, of any size."""
    return Setting(**{key: value for key, value in model.items() if key not in {"widths", "rate"}})


def train_all(config: dict[str, Any], folder: Path, device: str, results: Path | None = None) -> None:
    """Train, or continue, every run that is not done; `results` is that of :func:`collected`."""
    settings = plan(config)
    data = load(max(one.structures for one in settings), config["held_out"])
    for k, one in enumerate(settings):
        longest = replace(one, steps=max(s.steps for s in settings[: k + 1] if s.folder == one.folder))
        there = collected([one], folder, results)
        if there and there[-1]["step"] >= longest.steps:
            continue
        last = Run(longest, folder / one.folder, data, device).train().rows[-1]
        print(
            f"{k + 1}/{len(settings)} {one.folder}: step {last['step']}, {last['seconds']:.0f} s, "
            f"L_total {last['L_total']:.4g}, share {100 * last['share']:.2g} %",
            flush=True,
        )


def collected(settings: list[Setting], folder: Path, results: Path | None = None) -> list[dict[str, Any]]:
    """Rows of every run that has begun, in the order of the plan.

    Args:
        settings: the plan.
        folder: of the runs.
        results: an earlier table of rows, for runs that are not in the folder, or shorter there.
    """
    earlier: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    if results and results.exists():
        for row in map(numbers_of, csv.DictReader(results.open())):
            earlier.setdefault(tuple(row[key] for key in fits.RUN), []).append(row)
    rows: list[dict[str, Any]] = []
    for name, one in {one.folder: one for one in settings}.items():
        path = folder / name / "rows.json"
        own = json.loads(path.read_text()) if path.exists() else []
        before = earlier.get((one.title, one.width, one.structures, one.seed), [])
        rows += max(own, before, key=lambda found: found[-1]["step"] if found else -1)
    return rows


def numbers_of(row: dict[str, str]) -> dict[str, Any]:
    """A row of a CSV file, whose numbers are text."""
    names = {"model": str, **dict.fromkeys(("width", "parameters", "structures", "seed", "step"), int)}
    return {key: names.get(key, float)(value) for key, value in row.items()}


def parameters_of(findings: fits.Findings) -> list[dict[str, Any]]:
    """Every parameter of every law, with its interval."""
    found = []
    for law, of_model in (("L(N, D)", findings.sizes), ("L(N, step)", findings.lengths), ("L(C)", findings.compute)):
        for model, fitted in of_model.items():
            for name, one in fitted.parameters.items():
                found.append({"law": law, "model": model, "parameter": name, **one.row(), "runs": fitted.runs})
    for model, best in findings.allocations.items():
        for name, one in (("N exponent", best.n_exponent), ("step exponent", best.d_exponent)):
            found.append({"law": "allocation", "model": model, "parameter": name, **one.row(), "runs": ""})
    for model, own in findings.overtaking.items():
        if np.isnan(own.exponent.value):
            continue  # not two places at which a larger size overtakes
        row = {"law": "overtaking", "model": model, "parameter": "N exponent", **own.exponent.row()}
        found.append({**row, "runs": own.operations.size})
    return found


def factors_of(findings: fits.Findings) -> list[dict[str, Any]]:
    """How much more of something the second model of a pair needs than the first, at several losses."""
    found = []
    for (a, b, x), gap in findings.gaps.items():
        for loss, first, second, factor in zip(gap.losses, *gap.needed, gap.factor, strict=True):
            found.append(
                {"of": x, "first": a, "second": b, "loss": loss, "needs": first, "needed": second, **factor.row()}
            )
    return found


def shares_of(runs: scaling.Table, width: dict[str, float]) -> Table:
    """The share against steps, at the largest training set."""
    table = Table("model", "step", "L_total", "L_mean", "L_equiv", "share, %", title="Held out, first seed")
    rows = runs.where(seed=0, structures=runs.numbers("structures").max(), step=lambda s: s in STEPS)
    for model, own in figures.models_of(rows).items():
        for (step,), one in own.where(width=width[model]).by("step").items():
            value = {
                k: float(one[k][0]) for k in ("L_total", "L_mean", "L_equiv", "L_equiv_stderr", "share", "share_stderr")
            }
            share = f"{100 * value['share']:.2g} ± {100 * value['share_stderr']:.1g}"
            equiv = f"{value['L_equiv']:.3g} ± {value['L_equiv_stderr']:.1g}"
            table.add_row(model, f"{step:g}", f"{value['L_total']:.4f}", f"{value['L_mean']:.4f}", equiv, share)
    return table


def grid_of(best: scaling.Table) -> Table:
    """The lowest loss of every size on every training set, its range over seeds, and its share."""
    counts = sorted(set(best.numbers("structures").tolist()))
    table = Table("model", "parameters", *(f"D = {d:g}" for d in counts), title="Lowest held-out L_total (share)")
    for model, own in figures.models_of(best).items():
        for (parameters,), rows in sorted(own.by("parameters").items()):
            cells = {d: cell_of(one) for (d,), one in rows.by("structures").items()}
            table.add_row(model, f"{parameters:g}", *(cells.get(d, "") for d in counts))
    return table


def cell_of(runs: scaling.Table) -> str:
    """Geometric mean of the losses of some seeds, from the lowest to the highest; mean share."""
    losses, share = runs.numbers("L_total"), runs.numbers("share").mean()
    ends = f" {losses.min():.3g}–{losses.max():.3g}" if len(losses) > 1 else ""
    return f"{np.exp(np.log(losses).mean()):.4f}{ends}" + (f" ({100 * share:.2g} %)" if share > 1e-6 else "")


def epochs_of(rows: list[dict[str, Any]]) -> Table:
    """Losses, penalties of few data and ratios to the equivariant transformer, with their intervals."""
    table = Table("model", "D", "step", "epochs", "lowest L_total", "penalty", "over", title="Given epochs")
    for row in rows:
        spans = [f"{row[k]:.3g} [{row[f'{k}_low']:.3g}, {row[f'{k}_high']:.3g}]" for k in ("loss", "penalty", "over")]
        table.add_row(row["model"], *(f"{row[k]:g}" for k in ("structures", "step", "epochs")), *spans)
    return table


def report(config: dict[str, Any], rows: list[dict[str, Any]], stem: Path) -> None:
    """Tables, fits and figures from all rows there are."""
    write_csv(stem.with_name(f"{stem.name}_runs.csv"), rows)
    runs = scaling.read_table(stem.with_name(f"{stem.name}_runs.csv"))
    middle = {named(model).title: model["widths"][config["middle"]] for model in config["models"]}
    width = {model: middle[model] for model in figures.models_of(runs)}
    steps = config["stages"][0]["steps"]
    findings, console = fits.findings_of(runs, steps, width), Console(width=140)
    best = fits.stopped(runs, steps)
    console.print(shares_of(runs, width), grid_of(best))
    for model, law in findings.sizes.items():
        console.print(model, law)
    for model, law in findings.compute.items():
        console.print(model, law, *([findings.allocations[model]] if model in findings.allocations else []))
        console.print(f"{model}: larger sizes overtake at\n{findings.overtaking[model]}")
    for key, found in (*findings.data.items(), *findings.gaps.items()):
        console.rule(": ".join(key))
        console.print(found)
    for line in findings.left:
        console.print(f"Not found: {line}")
    given = fits.epochs(runs, config["batch"], width, STEPS[1:])
    console.print(epochs_of(given))
    write_csv(stem.with_name(f"{stem.name}_epochs.csv"), given)
    write_csv(stem.with_name(f"{stem.name}_laws.csv"), parameters_of(findings))
    write_csv(stem.with_name(f"{stem.name}_factors.csv"), factors_of(findings))
    most = runs.numbers("structures").max()
    figures.against_data(best, findings.sizes, stem.with_name(f"{stem.name}_data.png"))
    figures.against_cost(runs.where(structures=most), width, stem.with_name(f"{stem.name}_cost.png"))
    figures.shares(runs, best, width, stem.with_name(f"{stem.name}_shares.png"))
    figures.against_epochs(runs, config["batch"], width, stem.with_name(f"{stem.name}_epochs.png"))


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only-report", action="store_true", help="of the runs as far as they are; train nothing")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    args = parser.parse_args()
    config, folder = read(args.config), HERE / "runs" / Path(args.config).stem
    table = args.results / f"{folder.name}_runs.csv"
    if not args.only_report:
        train_all(config, folder, args.device, table)
    args.results.mkdir(parents=True, exist_ok=True)
    report(config, collected(plan(config), folder, table), args.results / folder.name)


if __name__ == "__main__":
    main()
