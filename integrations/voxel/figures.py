"""The figures: both losses and the share against the step, in training and on held-out structures."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from equiv_probe.scaling.table import write_csv

RESULTS = Path(__file__).parent / "results"
CLAIM = 0.02
"""Shen et al.: the share falls to this or less within 1k to 10k steps."""


def curves(runs: dict[str, list[dict[str, float]]], name: str, title: str, folder: Path = RESULTS) -> Path:
    """Draw the runs' logs, by run, into `<name>.png`, and write them to `<name>.csv`.

    Args:
        runs: by name.
        name: of both files.
        title: of the figure.
        folder: where to; trials have one of their own, so that they do not take the place of results.
    """
    folder.mkdir(exist_ok=True)
    write_csv(folder / f"{name}.csv", [{"run": kind, **row} for kind, rows in runs.items() for row in rows])
    figure, (losses, shares) = plt.subplots(1, 2, figsize=(10, 3.8), dpi=100)
    for k, (kind, rows) in enumerate(runs.items()):
        color = f"C{k}"
        held = [row for row in rows if "held/share" in row]
        train = [row for row in rows if "train/share" in row]
        steps = [max(row["step"], 1) for row in held]
        losses.plot(steps, [row["held/L_total"] for row in held], "-o", ms=3, color=color, label=kind)
        losses.plot(steps, [max(row["held/L_equiv"], 1e-16) for row in held], "--", color=color)
        shares.plot(steps, [max(100 * row["held/share"], 1e-7) for row in held], "-o", ms=3, color=color, label=kind)
        shares.plot(
            [row["step"] for row in train],
            [max(100 * row["train/share"], 1e-7) for row in train],
            ":",
            lw=1,
            color=color,
        )
    shares.axhline(100 * CLAIM, color="grey", lw=0.8)
    losses.set(yscale="log", xlabel="step", title="held out: L_total (line), L_equiv (dashed)")
    shares.set(yscale="log", xlabel="step", title="share, %: held out (line), training (dotted)")
    floor = min((row["held/share"] for rows in runs.values() for row in rows if "held/share" in row), default=1.0)
    if floor < 1e-4:  # a network at round-off would squash the others
        equivs = [row["held/L_equiv"] for rows in runs.values() for row in rows if row.get("held/share", 0) > 1e-4]
        losses.set_ylim(bottom=0.3 * min(equivs, default=1e-6))
        shares.set_ylim(bottom=0.01)
    for axis in (losses, shares):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    path = folder / f"{name}.png"
    figure.savefig(path)
    plt.close(figure)
    return path
