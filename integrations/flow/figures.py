"""Figures of the study: both losses and the share against the step, and the share against diffusion time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

mpl.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "svg.fonttype": "none"})
CLAIM = 0.02, (1000, 10000)
"""Shen et al., arXiv:2512.02303: a share of at most 2 % within 1k to 10k steps."""


def against_step(logs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Held-out ``L_total`` (and the loss in the data's frame), ``L_equiv`` and share of every run.

    Args:
        logs: by name of the run, rows with ``step`` and the estimates.
        path: of the PNG.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    loss, equiv, share = figure.subplots(1, 3)
    for k, (name, rows) in enumerate(logs.items()):
        colour = f"C{k}"
        steps = [max(row["step"], 1) for row in rows]
        loss.plot(steps, [row["L_total"] for row in rows], color=colour, label=name)
        loss.plot(steps, [row["loss"] for row in rows], ":", color=colour)
        for axes, key in ((equiv, "L_equiv"), (share, "share")):
            axes.errorbar(
                steps,
                [abs(row[key]) for row in rows],  # at round-off an estimate may come out negative
                [min(row[f"{key}_stderr"], 0.9 * abs(row[key])) for row in rows],
                color=colour,
                label=name,
                marker=".",
            )
    share.fill_between(CLAIM[1], 1e-9, CLAIM[0], color="k", alpha=0.1, label="≤ 2 % at 1k to 10k steps")
    loss.set(ylabel="L_total; dotted: in the data's frame")
    least = min(abs(row["share"]) for rows in logs.values() for row in rows)
    bottom = max(1e-9, 0.3 * least)  # an equivariant network is at round-off, which may be anything
    equiv.set(yscale="log", ylabel="L_equiv", ylim=(bottom, None))
    share.set(yscale="log", ylabel="share, L_equiv / L_total", ylim=(bottom, 1))
    for axes in (loss, equiv, share):
        axes.set(xscale="log", xlabel="training step")
    figure.legend(*share.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=100)


def against_time(bins: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Share, and both parts of the loss, in bins of diffusion time, with 95 % intervals.

    Args:
        bins: by name of the run, rows with ``low``, ``high`` and the estimates with their intervals.
        path: of the PNG.
    """
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    share, loss = figure.subplots(1, 2)
    for k, (name, rows) in enumerate(bins.items()):
        colour = f"C{k}"
        at = [(row["low"] + row["high"]) / 2 for row in rows]
        if all(row["share"] > 1e-4 for row in rows):
            below = [row["share"] - row["share_low"] for row in rows]
            above = [row["share_high"] - row["share"] for row in rows]
            share.errorbar(at, [row["share"] for row in rows], [below, above], color=colour, label=name, marker=".")
            loss.plot(at, [row["L_equiv"] for row in rows], "--", color=colour)
        loss.plot(at, [row["L_total"] for row in rows], color=colour, label=name)
    share.set(yscale="log", ylabel="share, L_equiv / L_total", xlabel="diffusion time t (0 noise, 1 data)")
    loss.set(yscale="log", ylabel="held-out L_total; dashed: L_equiv", xlabel="diffusion time t (0 noise, 1 data)")
    figure.legend(*loss.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=100)
