"""The whole study in one command: train every size on every number of structures, then tables, fits and figures.

    python integrations/scaling/study.py [--config small|gpu] [--only-report]

Runs that were stopped are continued, and what is finished is not done again. Writes `results/<config>_runs.csv` (a row
for every run and step), `_laws.csv`, `_factors.csv` and figures, and prints the tables that stand in the README.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import figures
import fits
import torch
import yaml
from rich.console import Console
from rich.table import Table
from setting import Setting
from train import HERE, Run, load

from equiv_probe import scaling

STEPS = (0, 32, 128, 512, 1024, 2048, 4096, 8192)
"""That are shown."""


def read(name: str) -> dict[str, Any]:
    """A file of `configs`, by its name or path."""
    path = HERE / "configs" / f"{name}.yaml"
    config: dict[str, Any] = yaml.safe_load((path if path.exists() else Path(name)).read_text())
    return config


def plan(config: dict[str, Any]) -> list[Setting]:
    """Every run, the most telling first: all sizes on all structures there are, one size on fewer, longer, and again.

    The rate of learning falls with the root of the width, from that of the configuration at a width of 32.
    """
    common = {key: config[key] for key in ("steps", "batch", "held_out", "precision", "warmup") if key in config}
    counts = sorted(config["structures"], reverse=True)

    def setting(model: dict[str, Any], width: int, structures: int, **others: Any) -> Setting:
        named = {key: value for key, value in model.items() if key not in {"widths", "rate"}}
        own = {**common, **named, "width": model["widths"][width], "structures": structures, **others}
        return Setting(**own, rate=model["rate"] * (32 / own["width"]) ** 0.5)

    repeated, longer, models = config["repeated"], config["longer"], config["models"]
    sizes = range(len(models[0]["widths"]))
    here = repeated["width"]
    cross = [(w, counts[0], {}) for w in sizes] + [(here, d, {}) for d in counts[1:]]
    more = [(longer["width"], counts[0], {"steps": longer["steps"]})]
    again = [(here, d, {"seed": seed}) for d in counts for seed in repeated["seeds"]]
    rest = [(w, d, {}) for d in counts[:0:-1] for w in sizes if w != here]
    count = len(repeated["seeds"])
    cells = cross + more + again[:count] + rest + again[count:]
    return [setting(model, w, d, **others) for w, d, others in cells for model in models]


def train_all(config: dict[str, Any], folder: Path, device: str) -> list[Run]:
    """Train, or continue, every run."""
    settings = plan(config)
    data = load(max(config["structures"]), config["held_out"])
    runs: dict[str, Run] = {}
    for k, one in enumerate(settings):
        longest = replace(one, steps=max(s.steps for s in settings[: k + 1] if s.folder == one.folder))
        runs[one.folder] = Run(longest, folder / one.folder, data, device).train()
        last = runs[one.folder].rows[-1]
        print(
            f"{k + 1}/{len(settings)} {one.folder}: step {last['step']}, {last['seconds']:.0f} s, "
            f"L_total {last['L_total']:.4g}, share {100 * last['share']:.2g} %",
            flush=True,
        )
    return list(runs.values())


def collected(settings: list[Setting], folder: Path) -> list[dict[str, Any]]:
    """Rows of every run that has begun, in the order of the plan."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(one.folder for one in settings):
        path = folder / name / "rows.json"
        rows += json.loads(path.read_text()) if path.exists() else []
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV file of numbers with six digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


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
    """The lowest loss of every size on every training set, and its share."""
    counts = sorted(set(best.numbers("structures").tolist()))
    table = Table("model", "parameters", *(f"D = {d:g}" for d in counts), title="Lowest held-out L_total (share)")
    for model, own in figures.models_of(best).items():
        for (parameters,), rows in sorted(own.by("parameters").items()):
            cells = {
                d: f"{rows['L_total'][k]:.4f} ({100 * rows['share'][k]:.2g} %)"
                for k, d in enumerate(rows["structures"])
            }
            table.add_row(model, f"{parameters:g}", *(cells.get(d, "") for d in counts))
    return table


def report(config: dict[str, Any], rows: list[dict[str, Any]], stem: Path) -> None:
    """Tables, fits and figures from all rows there are."""
    write(stem.with_name(f"{stem.name}_runs.csv"), rows)
    runs = scaling.read_table(stem.with_name(f"{stem.name}_runs.csv"))
    middle = config["repeated"]["width"]
    width = {m: sorted(set(own.numbers("width").tolist()))[middle] for m, own in figures.models_of(runs).items()}
    findings, console = fits.findings_of(runs, config["steps"], middle), Console(width=140)
    best = fits.stopped(runs, config["steps"])
    first = best.where(seed=0)
    console.print(shares_of(runs, width), grid_of(first))
    for model, law in findings.sizes.items():
        console.print(model, law)
    for model, law in findings.compute.items():
        console.print(model, law, *([findings.allocations[model]] if model in findings.allocations else []))
    for key, found in (*findings.data.items(), *findings.gaps.items()):
        console.rule(": ".join(key))
        console.print(found)
    for line in findings.left:
        console.print(f"Not found: {line}")
    write(stem.with_name(f"{stem.name}_laws.csv"), parameters_of(findings))
    write(stem.with_name(f"{stem.name}_factors.csv"), factors_of(findings))
    most = runs.numbers("structures").max()
    figures.against_data(first, findings.sizes, stem.with_name(f"{stem.name}_data.png"))
    figures.against_cost(runs.where(structures=most), width, stem.with_name(f"{stem.name}_cost.png"))
    figures.shares(runs, best, width, stem.with_name(f"{stem.name}_shares.png"))


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only-report", action="store_true", help="of the runs as far as they are; train nothing")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    args = parser.parse_args()
    config, folder = read(args.config), HERE / "runs" / Path(args.config).stem
    if not args.only_report:
        train_all(config, folder, args.device)
    args.results.mkdir(parents=True, exist_ok=True)
    report(config, collected(plan(config), folder), args.results / folder.name)


if __name__ == "__main__":
    main()
