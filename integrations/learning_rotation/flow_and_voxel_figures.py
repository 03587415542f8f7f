"""The figures of the long runs beside the points of Shen et al. (TMLR 12/2025, arXiv:2512.02303).

    python integrations/learning_rotation/flow_and_voxel_figures.py

Reads `flow/results/dip*_by_time.csv` and `voxel/results/dip_by_step.csv`; writes `flow_by_time.png` and
`voxel_by_step.png` beside this file. The paper's voxel points are read from its published table below
`$EQUIV_PROBE_DATA` (genentech/equivariance_learning), and left out where that is not there.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from flow_and_voxel import Row, read
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

mpl.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
HERE = Path(__file__).parent
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
VOXMOL = "data_10pct", "data_50pct", "model_7M"
FLOWS = {"dip": "ligands"}


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


def both(axes: Axes, rows: list[Row], color: object, label: str | None = None, width: float = 1.2) -> None:
    """``L_mean`` as a line and ``L_equiv`` dashed, against the step."""
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["L_mean"] for row in rows], color=color, label=label, lw=width)
    axes.plot(steps, [row["L_equiv"] if row["L_equiv"] > 0 else None for row in rows], "--", color=color, lw=width)


def percent(axes: Axes, rows: list[Row], color: object, label: str | None = None, style: str = "-") -> None:
    """The share against the step."""
    values = [100 * row["share"] if row["share"] > 0 else None for row in rows]
    axes.plot([row["step"] for row in rows], values, style, color=color, label=label, ms=4, lw=1.2)


def flow_figure(runs: dict[str, list[Row]], path: Path) -> None:
    """By flow time: losses and share against the step, and the share against the time; the paper's as circles."""
    figure = Figure(figsize=(12, 3.6 * len(runs)), layout="constrained")
    colours = {t: mpl.colormaps["viridis"](0.95 * k / (len(PROTEINA) - 1)) for k, t in enumerate(PROTEINA)}
    for (title, rows), line in zip(runs.items(), figure.subplots(len(runs), 3, squeeze=False), strict=True):
        loss, share, time = line
        last = max(row["step"] for row in rows)
        for t, colour in colours.items():
            for seed in {row["seed"] for row in rows}:
                own = [row for row in rows if row["t"] == t and row["seed"] == seed and row["step"] > 0]
                both(loss, own, colour, f"t = {t:g}" if seed == 0 else None)
                percent(share, own, colour)
            share.plot(PROTEINA_STEPS, PROTEINA[t], "o", ms=4, mfc="none", color=colour)
        for step, colour in ((1000, "C1"), (3000, "C3"), (last, "k")):
            own = [row for row in rows if row["step"] == step and row["seed"] == 0]
            time.plot(
                [row["t"] for row in own], [100 * row["share"] for row in own], "-", color=colour, label=f"{step:,.0f}"
            )
        for k, step in enumerate(PROTEINA_STEPS):
            values = [value[k] for value in PROTEINA.values()]
            time.plot(
                list(PROTEINA), values, "o:", ms=4, lw=0.7, mfc="none", color=f"C{4 + k}", label=f"Proteina, {step:,}"
            )
        loss.set(xscale="log", yscale="log", xlabel="step", title=f"{title}: L_mean (line), L_equiv (dashed)")
        share.set(xscale="log", yscale="log", xlabel="step", title="share, %; circles: Proteina")
        time.set(yscale="log", xlabel="flow time t (0 noise, 1 data)", title="share, %, at step")
        loss.legend(fontsize=7, ncols=2)
        time.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def voxel_figure(rows: list[Row], published: dict[str, list[Row]], path: Path) -> None:
    """Losses of ours, of VoxMol, and the shares of both."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    ours, theirs, share = figure.subplots(1, 3)
    for k, name in enumerate(dict.fromkeys(row["run"] for row in rows)):
        for seed in sorted({row["seed"] for row in rows if row["run"] == name}):
            own = [row for row in rows if (row["run"], row["seed"]) == (name, seed) and row["step"] > 0]
            both(ours, own, f"C{k}", name if seed == 0 else None)
            percent(share, own, f"C{k}", f"ours: {name}" if seed == 0 else None)
    for k, name in enumerate(one for one in VOXMOL if one in published):
        both(theirs, published[name], f"C{4 + k}", name)
        percent(share, published[name], f"C{4 + k}", f"VoxMol: {name}", "o:")
    ours.axhline(rows[0]["L_zero"], color="grey", lw=0.8, label="a guess of 0")
    ours.set_title("ours: L_mean (line), L_equiv (dashed)")
    theirs.set_title("VoxMol: L_mean (line), L_equiv (dashed)")
    share.set_title("share, %")
    for axes in (ours, theirs, share):
        axes.set(xscale="log", yscale="log", xlabel="step")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Draw what is there."""
    found = {title: read(HERE.parent / "flow" / "results" / f"{name}_by_time.csv") for name, title in FLOWS.items()}
    flows = {title: [row for row in rows if row["run"] == "augmented"] for title, rows in found.items()}
    flow_figure({title: rows for title, rows in flows.items() if rows}, HERE / "flow_by_time.png")
    voxel_figure(read(HERE.parent / "voxel" / "results" / "dip_by_step.csv"), voxmol(), HERE / "voxel_by_step.png")


if __name__ == "__main__":
    main()
