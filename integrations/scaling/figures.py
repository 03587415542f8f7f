"""Figures of the study: loss against data, loss against what is spent, and the share against all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from equiv_probe.scaling import Fit, Table

mpl.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
COLOURS = {
    "transformer": "#d55e00",
    "transformer, augmented": "#0072b2",
    "equivariant transformer": "#cc79a7",
    "transformer, framed": "#e69f00",
    "EGNN": "#56b4e9",
    "EGNN, tuned": "#009e73",
}
LINES = {"transformer, augmented": "--", "transformer, framed": ":"}
MARKS = "osD^v"
CLAIM = 0.02, (1000, 10000)
"""Shen et al., arXiv:2512.02303: a share of at most 2 % within 1k to 10k steps."""


def models_of(runs: Table) -> dict[str, Table]:
    """Rows by model, in the order in which they came."""
    return {str(model): rows for (model,), rows in runs.by("model").items()}


def _logarithmic(axes: Axes, x: str, y: str, title: str = "") -> None:
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y, title=title)
    axes.xaxis.set_minor_formatter(NullFormatter())


def against_data(best: Table, laws: dict[str, Fit], path: Path) -> None:
    """Lowest held-out loss against the size of the training set, of models of several sizes, with the laws.

    Args:
        best: a row a run.
        laws: L(N, D) by model.
        path: of the PNG.
    """
    models = {m: rows for m, rows in models_of(best).items() if len(rows.by("parameters")) > 1}
    figure = Figure(figsize=(2.7 * len(models), 3.3), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, (model, rows) in zip(panels, models.items(), strict=True):
        sizes = list(rows.by("parameters").items())
        for k, ((parameters,), own) in enumerate(sorted(sizes, key=lambda one: one[0])):
            colour = mpl.colormaps["viridis"](0.9 - 0.8 * k / max(1, len(sizes) - 1))
            d, loss, error = (own.numbers(name) for name in ("structures", "L_total", "L_total_stderr"))
            axes.errorbar(d, loss, error, fmt=MARKS[k], color=colour, label=f"{parameters / 1000:.3g} k", markersize=4)
            if model in laws:
                grid = np.geomspace(best.numbers("structures").min(), best.numbers("structures").max(), 50)
                axes.plot(grid, laws[model].at(np.full(50, parameters), grid), color=colour, lw=1)
        _logarithmic(axes, "training structures D", "lowest held-out L_total" if axes is panels[0] else "", model)
        axes.legend(title="parameters N", fontsize=7, title_fontsize=7)
    figure.savefig(path, dpi=80)


def against_cost(runs: Table, width: dict[str, float], path: Path) -> None:
    """Held-out loss against steps, device seconds and operations: every size, and one of them in bold.

    Args:
        runs: rows of the largest training set.
        width: of each model's bold curves.
        path: of the PNG.
    """
    figure = Figure(figsize=(10.5, 3.5), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    labels = {"step": "training steps", "seconds": "device seconds", "flops": "floating-point operations"}
    for axes, (x, label) in zip(panels, labels.items(), strict=True):
        for model, rows in models_of(runs).items():
            for (own_width, _), one in rows.where(step=lambda s: s > 0).by("width", "seed").items():
                bold = own_width == width[model]
                style = {"lw": 1.8 if bold else 0.7, "alpha": 1 if bold else 0.6, "zorder": 3 if bold else 2}
                axes.plot(one.numbers(x), one.numbers("L_total"), LINES.get(model, "-"), color=COLOURS[model], **style)
        _logarithmic(axes, label, "held-out L_total" if axes is panels[0] else "")
    for model in models_of(runs):
        panels[0].plot([], [], LINES.get(model, "-"), color=COLOURS[model], label=model)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=80)


def shares(runs: Table, best: Table, width: dict[str, float], path: Path) -> None:
    """The share against steps, model size and data.

    Args:
        runs: rows of every run and step.
        best: a row a run, for the panels over sizes.
        width: of each model where sizes are not varied.
        path: of the PNG.
    """
    figure = Figure(figsize=(10.5, 3.7), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    most = runs.numbers("structures").max()
    for model, rows in models_of(runs).items():
        if np.nanmax(rows.numbers("share")) < 1e-6:
            continue  # at round-off, below the axes
        own = {
            "step": rows.where(structures=most, width=width[model], step=lambda s: s > 0),
            "parameters": models_of(best.where(structures=most))[model],
            "structures": models_of(best)[model].where(width=width[model]),
        }
        for axes, (x, part) in zip(panels, own.items(), strict=True):
            for (seed,), one in part.by("seed").items():
                at, share, error = (
                    one.numbers(name)[np.argsort(one.numbers(x))] for name in (x, "share", "share_stderr")
                )
                axes.errorbar(
                    at,
                    share,
                    error,
                    color=COLOURS[model],
                    marker=".",
                    lw=1,
                    label=model if seed == 0 else None,
                )
    panels[0].fill_between(CLAIM[1], 1e-4, CLAIM[0], color="k", alpha=0.1, label="≤ 2 % at 1k to 10k steps")
    for axes, x in zip(panels, ("training steps", "parameters N", "training structures D"), strict=True):
        _logarithmic(axes, x, "share, L_equiv / L_total" if axes is panels[0] else "")
        axes.set(ylim=(2e-3, 0.5))
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=80)


def against_epochs(runs: Table, batch: int, width: dict[str, float], path: Path) -> None:
    """Lowest held-out loss so far against epochs, for each size of the training set; a line a seed.

    Args:
        runs: rows of every run and step.
        batch: structures in a step.
        width: of each model.
        path: of the PNG.
    """
    counts = sorted(set(runs.numbers("structures").tolist()))
    figure = Figure(figsize=(2.6 * len(counts), 3.6), layout="constrained")
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for axes, count in zip(panels, counts, strict=True):
        for model, rows in models_of(runs.where(structures=count, step=lambda s: s > 0)).items():
            for (seed,), one in rows.where(width=width[model]).by("seed").items():
                lowest = np.minimum.accumulate(one.numbers("L_total"))
                label = model if seed == 0 else None
                style = {"color": COLOURS[model], "lw": 1, "label": label}
                axes.plot(one.numbers("step") * batch / count, lowest, LINES.get(model, "-"), **style)
        first = "lowest held-out L_total so far" if axes is panels[0] else ""
        _logarithmic(axes, "epochs", first, f"{count:g} structures")
    there = {t: h for axes in panels for h, t in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(there.values(), there, fontsize=8, loc="outside upper center", ncols=6)
    figure.savefig(path, dpi=80)
