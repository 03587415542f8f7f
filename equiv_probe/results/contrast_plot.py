"""A contrast as a figure: one number of several reports with its intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.report.axes import ALARM, CALM, axes_or_new, figure, short, tidied

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from equiv_probe.results.contrasts import Contrast


@figure
def contrast(found: Contrast, ax: Axes | None = None) -> Axes:
    """One number of several reports with its 95 % intervals, the first at the top."""
    ax = axes_or_new(ax)
    for row, entry in enumerate(found.entries):
        finite = math.isfinite(entry.low) and math.isfinite(entry.high)
        reach = [[max(entry.value - entry.low, 0)], [max(entry.high - entry.value, 0)]] if finite else None
        ax.errorbar(entry.value, row, xerr=reach, fmt="o", color=CALM if row == 0 else ALARM, capsize=4, lw=1.8)
    ax.set_yticks(range(len(found.entries)), [short(entry.report) for entry in found.entries], parse_math=False)
    ax.set_ylim(len(found.entries) - 0.5, -0.5)
    values = [entry.value for entry in found.entries]
    if min(values) > 0 and max(values) > 30 * min(values):
        ax.set_xscale("log")
    else:
        ax.locator_params(axis="x", nbins=5)  # labels of six digits lie side by side
    ax.set_xlabel(f"{found.number} of {short(found.quantity)}" + (f", {short(found.unit)}" if found.unit else ""))
    return tidied(ax, grid="x")
