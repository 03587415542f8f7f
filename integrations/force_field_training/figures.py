"""Figures of the study: both losses and the share against the step, and the loss against seconds of the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from equiv_probe.report.formatting import finite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

mpl.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
CLAIM = 0.02, (1000, 10000)
"""Shen et al., arXiv:2512.02303: a share of at most 2 % within 1k to 10k steps."""


def against_step(logs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *, seconds: bool = True) -> None:
    """Held-out ``L_total``, ``L_equiv`` and share of the forces of every run.

    Args:
        logs: by name of the run, rows with ``step``, ``seconds`` and the estimates.
        path: of the PNG.
        seconds: whether the loss against the device's seconds is shown too.
    """
    figure = Figure(figsize=(13 if seconds else 10, 3.6), layout="constrained")
    total, equiv, share, *rest = figure.subplots(1, 4 if seconds else 3)
    for k, (name, rows) in enumerate(logs.items()):
        steps = [max(row["step"], 1) for row in rows]
        how = {"color": f"C{k % 10}", "ls": "--" if k >= 10 else "-", "label": name, "marker": "."}
        total.plot(steps, [row["L_total"] for row in rows], **how)
        for axes, key in ((equiv, "L_equiv"), (share, "share")):
            values = [abs(row[key]) for row in rows]  # at round-off an estimate may come out negative
            errors = [min(row[f"{key}_stderr"], 0.9 * value) for row, value in zip(rows, values, strict=True)]
            axes.errorbar(steps, values, errors, **how)
        for axes in rest:
            axes.plot([row["seconds"] for row in rows[1:]], [row["L_total"] for row in rows[1:]], **how)
    share.fill_between(CLAIM[1], 1e-9, CLAIM[0], color="k", alpha=0.1, label="≤ 2 % at 1k to 10k steps")
    total.set(ylabel="forces, held out: L_total, (eV/Å)²")
    equiv.set(ylabel="L_equiv, (eV/Å)²", ylim=(2e-4, None))
    share.set(ylabel="share, L_equiv / L_total", ylim=(5e-5, 1))
    for axes in rest:
        axes.set(ylabel="L_total, (eV/Å)²", xlabel="seconds of one core")
    for axes in (total, equiv, share, *rest):
        axes.set(xscale="log", yscale="log")
    for axes in (total, equiv, share):
        axes.set(xlabel="training step")
    figure.legend(*share.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=6)
    figure.savefig(path, dpi=90)


def landscape(found: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Lengths of both gradients beside the share, condition numbers, and both losses along a line.

    Args:
        found: by step, as `landscape.py` writes it.
        rows: of the run, with ``step`` and ``share``.
        path: of the PNG.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    lengths, numbers, line = figure.subplots(1, 3)
    found = dict(sorted(found.items(), key=lambda item: int(item[0])))
    colours = {"mean": "C0", "equiv": "C1"}
    given = {max(int(step), 1): one["gradients"] for step, one in found.items() if "gradients" in one}
    for name, colour in colours.items():
        values, errors = ([finite(one[f"norm_{name}{suffix}"]) for one in given.values()] for suffix in ("", "_stderr"))
        lengths.errorbar(list(given), values, errors, color=colour, marker="o", label=f"‖∇L_{name}‖, eV²/Å²")
    steps = [max(row["step"], 1) for row in rows]
    lengths.plot(steps, [row["share"] for row in rows], "k.:", label="share")
    bent = {max(int(step), 1): one["curvature"] for step, one in found.items() if "curvature" in one}
    for kind, style in (("mass-0.99", "o-"), ("weighted", "s--"), ("median", "^:")):
        for name, colour in colours.items():
            values = [finite(one[name]["condition"][kind]["value"]) for one in bent.values()]
            numbers.plot(list(bent), values, style, color=colour, label=f"L_{name}, {kind}")
    for k, (step, one) in enumerate((step, one["line"]) for step, one in found.items() if "line" in one):
        ahead = [(t, j) for j, t in enumerate(one["t"]) if t > 0]
        origin = one["t"].index(0.0)
        for name, style in (("mean", "-"), ("equiv", "--")):
            values = one[f"L_{name}"]
            even = [(values[j] + values[-1 - j]) / 2 - values[origin] for _, j in ahead]
            line.plot(
                [t for t, _ in ahead], [abs(v) for v in even], style, color=f"C{k}", label=f"L_{name}, step {step}"
            )
    lengths.set(xscale="log", yscale="log", xlabel="training step")
    numbers.set(xscale="log", yscale="log", xlabel="training step", ylabel="condition number")
    line.set(xscale="log", yscale="log", xlabel="t, relative displacement", ylabel="even part of L(t) − L(0), (eV/Å)²")
    for axes in (lengths, numbers, line):
        axes.legend(fontsize=6)
    figure.savefig(path, dpi=90)
