"""Tables and figure of the study of condition numbers, from what it kept."""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from scipy.stats import t as student

import equiv_probe as ep
from equiv_probe.landscape.roughness import Roughness

mpl.use("agg")
from matplotlib import pyplot

from equiv_probe.scaling.table import write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from equiv_probe.analysis import Landscape

MEAN, EQUIV = "#0072b2", "#d55e00"
KAPPAS = ("kappa", "kappa_above_floor", "kappa_mass-0.99", "kappa_weighted")
TITLES = {"escaip": "EScAIP, feed-forward block", "flow": "flow, last linear layer"}


def everything(results: Path, runs: Path) -> None:
    """What is there, as tables on the screen, a summary of the landscapes, and the figure."""
    rows = [row for path in sorted(results.glob("conditioning_*.csv")) for row in read(path) if "kappa" in row]
    grids = [ep.load(path) for path in sorted(runs.glob("conditioning-*.json"))]
    print("\n".join(condition_table(rows)))
    summary = roughness(grids)
    print("\n".join(roughness_table(summary)))
    if summary:
        write_csv(results / "conditioning_roughness.csv", summary)
    if rows and grids:
        figure(rows, grids).savefig(results / "conditioning.png", dpi=130)


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a file."""
    with path.open() as file:
        return list(csv.DictReader(file))


def over_seeds(values: list[float]) -> str:
    """Geometric mean with a 95 % interval, Student t on the log scale."""
    logs = np.log10(np.array(values))
    logs = logs[np.isfinite(logs)]
    if not len(logs):
        return "–"
    middle = 10 ** logs.mean()
    if len(logs) < 2:
        return short(middle)
    reach = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    return f"{short(middle)} ({short(10 ** (logs.mean() - reach))} to {short(10 ** (logs.mean() + reach))})"


def short(value: float) -> str:
    """Two digits, without the zeros of exponents."""
    rounded = float(f"{value:.2g}")
    if 1e-3 <= abs(rounded) < 1e4:
        return f"{rounded:g}"
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{rounded:.1e}")


def row_of(*cells: object) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def head(*cells: str) -> str:
    """The first two."""
    return f"{row_of(*cells)}\n|{'---|' * len(cells)}"


def condition_table(rows: list[dict[str, str]]) -> list[str]:
    """κ of both losses and their ratio, under each definition and each way of drawing."""
    found: dict[tuple[str, ...], dict[str, dict[str, dict[str, str]]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        named = f"{row['task']} {row['block']}{f', {n} structures' if (n := row.get('structures')) else ''}"
        way = (named, *(row.get(key, "") for key in ("precision", "how", "rotations")))
        found[way][row["seed"]][row["loss"]] = row
    lines = [head("block", "precision", "draws", "K", "κ", "L_mean", "L_equiv", "ratio", "seeds")]
    for way, seeds in found.items():
        for kappa in KAPPAS:
            pairs = [(one["mean"].get(kappa), one["equiv"].get(kappa)) for one in seeds.values() if len(one) == 2]
            both = [(float(m), float(e)) for m, e in pairs if m and e]
            if both:
                numbers = [over_seeds(list(x)) for x in (*zip(*both, strict=True), [m / e for m, e in both])]
                lines.append(row_of(*way, kappa, *numbers, len(both)))
    return lines


def roughness(grids: list[Any]) -> list[dict[str, Any]]:
    """What a quartic leaves over of every landscape, and of the published ones where they are at hand."""
    rows: list[dict[str, Any]] = []
    for grid in grids:
        task, block, how = grid.name.split(", ")
        known = {"task": task, "block": block, "draws": how, "share": grid.here[2] / grid.here[0]}
        for name in ("mean", "equiv"):
            scatter = grid.protocol["scatter"].get(name, "")
            rows.append({**known, "loss": name, "scatter": scatter, **told(grid.roughness[f"L_{name}"])})
    path = Path(os.environ.get("EQUIV_PROBE_DATA", ".")) / "shen2025/landscapes.npz"
    if path.exists():
        stored = np.load(path)
        for task, theirs in (("escaip", "escaip"), ("flow", "proteina")):
            both = {name: stored[f"{theirs}_L_{name}"] for name in ("mean", "equiv")}
            share = float(both["equiv"].mean() / (both["mean"] + both["equiv"]).mean())
            known = {"task": task, "block": "", "draws": "published", "share": share}
            rows += [{**known, "loss": name, **told(Roughness.of(one))} for name, one in both.items()]
    return rows


def told(one: Roughness) -> dict[str, float]:
    """The numbers of a roughness."""
    return {"relative": one.relative, "of_range": one.of_range, "lag1": one.lag1, "lag1_stderr": one.lag1_stderr}


def roughness_table(rows: list[dict[str, Any]]) -> list[str]:
    """Size and correlation of neighbours of what a quartic leaves over, over seeds."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["task"], row["draws"], row["loss"]].append(row)
    lines = [head("task", "draws", "loss", "share, %", "left over, %", "scatter at one point, %", "lag 1", "seeds")]
    for way, some in found.items():
        scatter = [100 * row["scatter"] for row in some if isinstance(row.get("scatter"), float)]
        sizes = over_seeds([100 * row["relative"] for row in some]), over_seeds(scatter) if scatter else "–"
        lags = np.array([row["lag1"] for row in some])
        error = lags.std(ddof=1) / len(lags) ** 0.5 if len(lags) > 1 else some[0]["lag1_stderr"]
        share = over_seeds([100 * row["share"] for row in some])
        lines.append(row_of(*way, share, *sizes, f"{lags.mean():.2f} ± {error:.2f}", len(some)))
    return lines


def figure(rows: list[dict[str, str]], grids: list[Any]) -> Any:
    """Both losses of the first seed with fixed and fresh rotations; condition numbers of all seeds."""
    made, axes = pyplot.subplots(2, 5, figsize=(12.5, 5.2), layout="constrained", width_ratios=[1, 1, 1, 1, 1.5])
    for line, (task, title) in zip(axes, TITLES.items(), strict=True):
        some = {one.name.split(", ")[2]: one for one in reversed(grids) if one.name.startswith(f"{task}, ")}
        for ax, (loss, how) in zip(line, itertools.product(("mean", "equiv"), ("fixed", "rotations")), strict=False):
            if how in some:
                surface(ax, some[how], loss, f"L_{loss}, {'fixed' if how == 'fixed' else 'fresh'} rotations")
        line[0].set_ylabel(title)
        kappas(line[4], [r for r in rows if r["task"] == task and r["block"] != "head" and "structures" not in r])
    return made


def surface(ax: Axes, grid: Landscape, loss: str, title: str) -> None:
    """A loss as an image."""
    values = grid.surface(loss)
    ends = grid.at[0], grid.at[-1]
    drawn = ax.imshow(values.T, origin="lower", extent=(*ends, *ends), cmap="Blues" if loss == "mean" else "Oranges")
    ax.set_title(title, fontsize=9)
    ax.tick_params(labelsize=7)
    ax.locator_params(nbins=3)
    ax.figure.colorbar(drawn, ax=ax, shrink=0.7).ax.tick_params(labelsize=6)


def kappas(ax: Axes, rows: list[dict[str, str]]) -> None:
    """λmax over the smallest positive eigenvalue, by way of drawing; a point is a seed."""
    ways = list(dict.fromkeys((row["precision"], row["how"], row["rotations"]) for row in rows))
    for shift, loss, colour in ((-0.15, "mean", MEAN), (0.15, "equiv", EQUIV)):
        for place, way in enumerate(ways):
            some = [r for r in rows if (r["precision"], r["how"], r["rotations"]) == way and r["loss"] == loss]
            values = [float(row["kappa_above_floor"] or row["kappa"]) for row in some]
            label = f"L_{loss}" if place == 0 else None
            ax.plot(values, np.full(len(values), place + shift), "o", ms=4, color=colour, alpha=0.8, label=label)
    ax.set_xscale("log")
    names = [f"{how}, K = {count}{', float32' if precision == 'float32' else ''}" for precision, how, count in ways]
    ax.set_yticks(range(len(ways)), names, fontsize=7)
    ax.invert_yaxis()
    ax.grid(axis="x", color="#cccccc", lw=0.6)
    ax.legend(fontsize=7, frameon=False)
    ax.set_title("λmax / λmin(+), above rounding", fontsize=9)
