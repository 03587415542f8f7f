"""The figures of the long runs beside the points of Shen et al. (TMLR 12/2025, arXiv:2512.02303).

    python integrations/learning_rotation/flow_and_voxel_figures.py

Reads `flow/results/dip_by_time.csv` and `voxel/results/dip_by_step.csv`; writes `flow_by_time.png` and
`voxel_by_step.png` in `results/`. The paper's voxel points are read from its published table below
`$EQUIV_PROBE_DATA` (genentech/equivariance_learning), and left out where that is not there.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from flow_and_voxel import Row, read
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

mpl.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
HERE = Path(__file__).parent
RESULTS = HERE / "results"
PROTEINA = {
    0.0: (0.2, 0.1, 0.05),
    0.2: (0.2, 0.35, 0.7),
    0.4: (0.2, 0.7, 2.4),
    0.6: (0.35, 1.2, 3.8),
    0.8: (7.0, 4.5, 4.6),
    0.9: (18.0, 7.0, 6.5),
    0.95: (11.0, 7.0, 5.0),
    0.99: (1.3, 3.5, 3.2),
}
"""Share in % by flow time, read off the paper's figures (± 10 %), at these steps."""
PROTEINA_STEPS = 10_000, 100_000, 1_000_000
VOXMOL = "data_10pct", "data_25pct", "model_7M"


def voxmol() -> dict[str, list[Row]]:
    """The published validation losses over four rotations, by run; the plug-in ``L_equiv`` times 4/3, as the paper."""
    path = Path(os.environ.get("EQUIV_PROBE_DATA", "")) / "shen2025" / "voxmol_validation.csv"
    if not path.exists():
        return {}
    runs: dict[str, list[Row]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            mean, equiv = float(row["L_mean_plugin"]), float(row["L_equiv_plugin"])
            share = equiv * 4 / 3 / (mean + equiv)
            own = {"step": float(row["step"]), "L_mean": mean, "L_equiv": equiv * 4 / 3, "share": share}
            runs.setdefault(row["run"], []).append(own)
    return {name: sorted(rows, key=lambda row: row["step"]) for name, rows in runs.items()}


def over_seeds(axes: Axes, rows: list[Row], x: str, key: str, style: str = "-", **options: Any) -> None:
    """One column against another: the geometric mean over seeds, and their range, where all of them have been."""
    at: dict[float, list[float]] = {}
    for row in rows:
        at.setdefault(row[x], []).append(row[key])
    most = max(map(len, at.values()), default=0)
    known = {place: values for place, values in sorted(at.items()) if 2 * len(values) > most and min(values) > 0}
    means = [geometric_mean(values) for values in known.values()]
    (line,) = axes.plot(list(known), means, style, ms=4, lw=1.4, **options)
    if most > 1:
        low, high = [*map(min, known.values())], [*map(max, known.values())]
        axes.fill_between(list(known), low, high, color=line.get_color(), alpha=0.15, lw=0)


def flow_figure(rows: list[Row], path: Path) -> None:
    """By flow time: both losses and the share against the step, and the share against the time."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    (mean, equiv), (share, time) = figure.subplots(2, 2)
    rows = [row | {"share": 100 * row["share"], "of guess": row["L_mean"] / row["L_guess"]} for row in rows]
    for k, (t, points) in enumerate(PROTEINA.items()):
        colour = mpl.colormaps["viridis"](0.95 * k / (len(PROTEINA) - 1))
        own = [row for row in rows if row["t"] == t and row["step"] > 0]
        for axes, key in ((mean, "of guess"), (equiv, "L_equiv"), (share, "share")):
            over_seeds(axes, own, "step", key, color=colour, label=f"t = {t:g}")
        share.plot(PROTEINA_STEPS, points, "o", ms=4, mfc="none", color=colour)
    for step, colour in ((1000, "C1"), (5000, "C3"), (max(row["step"] for row in rows), "k")):
        own = [row for row in rows if row["step"] == step]
        over_seeds(time, own, "t", "share", color=colour, label=f"ours, {step:,.0f}")
    for k, step in enumerate(PROTEINA_STEPS):
        shares = [points[k] for points in PROTEINA.values()]
        time.plot(
            list(PROTEINA), shares, "o:", ms=4, lw=0.7, mfc="none", color=f"C{4 + k}", label=f"Proteina, {step:,}"
        )
    mean.set(ylim=(0.6, 1.15), title="L_mean / loss of the blind guess a(t) x, which is equivariant")
    equiv.set(yscale="log", title="L_equiv")
    share.set(yscale="log", title="share, %; circles: Proteina")
    for axes in (mean, equiv, share):
        axes.set(xscale="log", xlabel="step")
    time.set(yscale="log", xlabel="flow time t (0 noise, 1 data)", title="share, %, at step")
    mean.legend(fontsize=7, ncols=2, loc="lower left")
    time.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def voxel_figure(rows: list[Row], published: dict[str, list[Row]], path: Path) -> None:
    """Losses of ours, of VoxMol, and the shares of both."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    ours, theirs, share = figure.subplots(1, 3)
    labelled: list[tuple[Axes, str, str, list[Row]]] = []
    for run in dict.fromkeys(row["run"] for row in rows):
        labelled += [(ours, f"ours: {run}", "-", [row for row in rows if row["run"] == run and row["step"] > 0])]
    labelled += [(theirs, f"VoxMol: {name}", ".:", published[name]) for name in VOXMOL if name in published]
    for k, (axes, label, style, own) in enumerate(labelled):
        over_seeds(axes, own, "step", "L_mean", color=f"C{k}", label=label)
        over_seeds(axes, own, "step", "L_equiv", "--", color=f"C{k}")
        shares = [row | {"share": 100 * row["share"]} for row in own]
        over_seeds(share, shares, "step", "share", style, color=f"C{k}", label=label)
    for key, style, label in (("L_zero", "-", "a guess of 0"), ("L_filter", ":", "the best blind filter")):
        ours.axhline(rows[0][key], color="grey", ls=style, lw=1, label=label)
    ours.set_title("L_mean (line), L_equiv (dashed)")
    theirs.set_title("the same, as published")
    share.set_title("share, %")
    for axes in (ours, theirs, share):
        axes.set(xscale="log", yscale="log", xlabel="step")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Draw what is there."""
    flows = read(HERE.parent / "flow" / "results" / "dip_by_time.csv")
    flow_figure([row for row in flows if row["run"] == "augmented"], RESULTS / "flow_by_time.png")
    voxel_figure(read(HERE.parent / "voxel" / "results" / "dip_by_step.csv"), voxmol(), RESULTS / "voxel_by_step.png")


if __name__ == "__main__":
    main()
