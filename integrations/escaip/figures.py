"""One table of all trainings so far, and their figures, beside the points that the paper published.

    python integrations/escaip/figures.py

Reads ``runs/*/steps.csv`` where there are any and writes ``results/steps.csv``; draws ``results/line.png`` (four
architectures), ``results/what_moves_it.png`` (data, learning rate, augmentation, batch) and ``results/gradients.png``;
prints the correlations of share and gradients.
"""

from __future__ import annotations

import csv
import math
from itertools import groupby, product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from scipy.stats import pearsonr, spearmanr

from equiv_probe.scaling.table import write_csv

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TABLE = RESULTS / "steps.csv"
DESCRIBED = ("data", "model", "size", "structures", "lr", "optimizer", "batch", "augment", "decay", "seed")
COLOURS = {"escaip": "C0", "absolute": "C2", "free": "C1", "coordinates": "C3"}
NAMES = {
    "escaip": "EScAIP: invariant but for three rows",
    "absolute": "EScAIP that sees directions",
    "free": "that, with a head free of directions",
    "coordinates": "transformer on coordinates",
}
PAPER = {
    "step": [110, 650, 1000, 1500, 2400, 4740, 17_000, 100_000, 450_000],
    "L_equiv": [4.7, 0.2, 0.04, 0.015, 0.007, 4e-4, 5e-4, 3.5e-5, 8e-6],
    "L_total": [24, 2, 1.3, 1.1, 0.9, 0.6, 0.2, 0.045, 0.022],
    "share": [0.20, 0.10, 0.05, 0.023, 0.01, 9e-4, 3.5e-3, 1.2e-3, 6e-4],
}
"""Read off the force-field figures of Shen, Nowara, Maser and Cho (arXiv:2512.02303), to about 10 %: EScAIP with six
million weights, batch 64, Adam 1e-5, 950,000 structures, no augmentation."""

LEARNED = "from step 1000 on, half of the loss learned"
Row = dict[str, Any]
mpl.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})


def gathered() -> list[Row]:
    """All rows, from the runs that are here and, of the others, from the table."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for path in [TABLE, *sorted(HERE.glob("runs/*/steps.csv"))]:
        if path.exists():
            with path.open() as file:
                rows = list(csv.DictReader(file))
            for described, own in groupby(rows, key=lambda row: tuple(row[name] for name in DESCRIBED)):
                found[described] = list(own)
    return [row for described in sorted(found) for row in found[described]]


def write(rows: Sequence[Row]) -> None:
    """One table, numbers with five digits."""
    text = {*DESCRIBED, "step"}
    table = [{name: value if name in text else float(value) for name, value in row.items()} for row in rows]
    write_csv(TABLE, table, digits=5, names=DESCRIBED)


def runs(rows: Sequence[Row], **wanted: Any) -> list[list[Row]]:
    """Those trainings that were as wanted, seed by seed; what is not named is as by default."""
    plain = {"size": "medium", "structures": "0", "lr": "0.0005", "optimizer": "adam", "batch": "4", "decay": "0"}
    plain |= {"augment": "False", "model": "escaip"} | {name: str(value) for name, value in wanted.items()}
    chosen = [row for row in rows if all(row[name] == value for name, value in plain.items())]
    return _by_run(chosen)


def curve(axes: Axes, found: Sequence[Sequence[Row]], column: str, **look: Any) -> None:
    """A column against the step, all seeds alike; the label once."""
    for rows in found:
        points = [(int(row["step"]), float(row[column])) for row in rows if int(row["step"]) >= 10]
        axes.plot(*zip(*points, strict=True), **look)
        look.pop("label", None)


def line(rows: Sequence[Row], sets: Sequence[str]) -> None:
    """Both losses and the share of the four architectures, by set; the rate falls to zero in the end."""
    figure = Figure(figsize=(11, 3.3 * len(sets)), layout="constrained")
    grid = figure.subplots(len(sets), 3, squeeze=False)
    for (loss, equiv, share), data in zip(grid, sets, strict=True):
        for model, colour in COLOURS.items():
            for decay, style in ((0, ":"), (10_000, "-")):
                found = runs(rows, data=data, model=model, decay=decay)
                if found:
                    label = {"label": NAMES[model]} if style == "-" else {}
                    for axes, column in ((loss, "L_mean"), (equiv, "L_equiv"), (share, "share")):
                        curve(axes, found, column, color=colour, ls=style, **label)
        if data == "gfn2":
            for axes, values in ((loss, None), (equiv, PAPER["L_equiv"]), (share, PAPER["share"])):
                means = [a - b for a, b in zip(PAPER["L_total"], PAPER["L_equiv"], strict=True)]
                axes.plot(PAPER["step"], values or means, "k+", label="the paper, its own data and units")
        share.axhline(0.02, color="k", lw=0.6)
        loss.set(ylabel=f"{data}: L_mean, (eV/Å)²")
        equiv.set(ylabel="L_equiv, (eV/Å)²")
        share.set(ylabel="share; line: 2 %")
        for axes in (loss, equiv, share):
            axes.set(xscale="log", yscale="log", xlabel="training step")
    figure.legend(*grid[0][2].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    figure.savefig(RESULTS / "line.png", dpi=110)


VARIED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "learning rate, gfn2": [
        ("1e-3", {"lr": 0.001}),
        ("5e-4", {}),
        ("1e-4", {"lr": 0.0001}),
        ("1e-5", {"lr": 1e-05}),
        ("SGD 1e-2", {"lr": 0.01, "optimizer": "sgd"}),
        ("5e-4, to zero by a cosine", {"decay": 10_000}),
    ],
    "structures to train on, gfn2": [
        ("50", {"structures": 50, "decay": 10_000}),
        ("500", {"structures": 500, "decay": 10_000}),
        ("5,000", {"structures": 5000, "decay": 10_000}),
        ("20,520", {"decay": 10_000}),
    ],
    "augmentation, ethanol": [
        ("none, constant rate", {"data": "ethanol"}),
        ("random rotations, constant rate", {"data": "ethanol", "augment": True}),
        ("none, cosine", {"data": "ethanol", "decay": 10_000}),
        ("random rotations, cosine", {"data": "ethanol", "augment": True, "decay": 10_000}),
    ],
    "weights, gfn2": [
        ("60 k", {"size": "small", "decay": 10_000}),
        ("363 k", {"decay": 10_000}),
        ("810 k", {"size": "large", "decay": 10_000}),
    ],
}


def what_moves_it(rows: Sequence[Row]) -> None:
    """The share (above) and `L_equiv` (below) where one thing is changed at a time; what was not run is left out."""
    varied = {
        title: [(label, found) for label, wanted in variants if (found := runs(rows, **{"data": "gfn2", **wanted}))]
        for title, variants in VARIED.items()
    }
    varied = {title: variants for title, variants in varied.items() if len(variants) > 1}
    figure = Figure(figsize=(3.3 * len(varied) + 0.5, 6), layout="constrained")
    for (share, equiv), (title, variants) in zip(figure.subplots(2, len(varied)).T, varied.items(), strict=True):
        for place, (label, found) in enumerate(variants):
            curve(share, found, "share", color=f"C{place}", label=label)
            curve(equiv, found, "L_equiv", color=f"C{place}")
        share.axhline(0.02, color="k", lw=0.6)
        share.set(title=title, ylabel="share; line: 2 %", xscale="log", yscale="log", ylim=(1e-7, 1))
        equiv.set(ylabel="L_equiv, (eV/Å)²", xscale="log", yscale="log", xlabel="training step")
        share.legend(fontsize=7, loc="lower right")
    figure.savefig(RESULTS / "what_moves_it.png", dpi=110)


def gradients(rows: Sequence[Row]) -> list[str]:
    """The ratio of the gradients' lengths against the share; correlations of their logarithms, from a step on."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes, said = figure.subplots(), []
    every = {"from step 10 on": _since(rows, 10), "from step 1000 on": _since(rows, 1000), LEARNED: _learned(rows)}
    for (model, colour), (which, chosen) in product(COLOURS.items(), every.items()):
        points = [
            (float(row["share"]), float(row["gradient_equiv"]) / float(row["gradient_mean"]))
            for row in chosen
            if row["model"] == model and not math.isnan(float(row["gradient_mean"]))
        ]
        if len(points) < 3:
            continue
        logs = [[math.log(value) for value in values] for values in zip(*points, strict=True)]
        pearson, spearman = float(pearsonr(*logs)[0]), float(spearmanr(*logs)[0])
        said.append(
            f"{model}, {which}: Pearson {pearson:.2f}, Spearman {spearman:.2f} of {len(points)} points; "
            f"∇L_equiv longer at {sum(ratio > 1 for _, ratio in points)}, "
            f"median ratio {median(ratio for _, ratio in points):.2f}"
        )
        if which == "from step 1000 on":
            axes.plot(*zip(*points, strict=True), ".", color=colour, label=NAMES[model])
    axes.axhline(1, color="k", lw=0.6)
    axes.set(xscale="log", yscale="log", xlabel="share, from step 1000 on", ylabel="‖∇L_equiv‖ / ‖∇L_mean‖")
    axes.legend(fontsize=7)
    figure.savefig(RESULTS / "gradients.png", dpi=110)
    return said


def _since(rows: Sequence[Row], step: int) -> list[Row]:
    return [row for row in rows if int(row["step"]) >= step]


def _learned(rows: Sequence[Row]) -> list[Row]:
    """Of each run the rows from step 1000 on whose loss is half of that at step 100, where nothing is learned yet."""
    nothing = [next(float(row["L_total"]) for row in own if int(row["step"]) >= 100) for own in _by_run(rows)]
    halves = zip(_by_run(rows), nothing, strict=True)
    return [row for own, loss in halves for row in _since(own, 1000) if float(row["L_total"]) < loss / 2]


def rows_and_losses(rows: Sequence[Row]) -> str:
    """How the variance of the three rows goes with `L_equiv`, within runs of EScAIP: as the paper plots it."""
    found = [runs_of for runs_of in _by_run(rows) if runs_of[0]["model"] == "escaip" and len(runs_of) > 20]
    each = [
        float(spearmanr([float(r["variance_of_rows"]) for r in one], [float(r["L_equiv"]) for r in one])[0])
        for one in found
    ]
    each.sort()
    return f"variance of the rows and L_equiv, Spearman within {len(each)} runs: {each[0]:.2f} to {each[-1]:.2f}"


def _by_run(rows: Sequence[Row]) -> list[list[Row]]:
    return [list(own) for _, own in groupby(rows, key=lambda row: tuple(row[name] for name in DESCRIBED))]


def ends(rows: Sequence[Row]) -> None:
    """The share at a few steps, and its lowest value from step 1000 on, run by run."""
    for own in _by_run(rows):
        at = {int(row["step"]): row for row in own}
        shown = [
            f"{step}: {float(at[step]['L_total']):.3g} {100 * float(at[step]['share']):.2g} %"
            for step in (100, 1000, 3162, 10_000)
            if step in at
        ]
        late = [row for row in own if int(row["step"]) >= 1000]
        least = min(late, key=lambda row: float(row["share"])) if late else None
        lowest = f"; lowest {100 * float(least['share']):.2g} % at {least['step']}" if least else ""
        print(" ".join(own[0][name] for name in DESCRIBED), "|", "; ".join(shown) + lowest)


def main() -> None:
    """Table, figures, correlations."""
    rows = gathered()
    write(rows)
    line(rows, [data for data in ("gfn2", "ethanol", "3bpa") if any(row["data"] == data for row in rows)])
    what_moves_it(rows)
    for said in [*gradients(rows), rows_and_losses(rows)]:
        print(said)
    ends(rows)


if __name__ == "__main__":
    main()
