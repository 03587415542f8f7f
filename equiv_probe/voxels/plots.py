"""Figures of the audit of a model of grids, as Matplotlib axes: both numbers, over structures, against the angle.

Every function draws into the axes it is given, or into a new figure of pyplot's, and returns the axes. For squared
error roots are drawn, in the output's own unit, otherwise ``L_equiv`` itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import ALARM, CALM, INK, LINE, axes_or_new, below, figure, is_near, legend_above, tidied
from equiv_probe.report.formatting import number
from equiv_probe.voxels.grid_numbers import ALL, RIGHT_ANGLES, Shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from equiv_probe.estimation.decomposition import Decomposition
    from equiv_probe.results.angle_bins import AngleBin


@figure
def numbers(cube: Decomposition, rotations: Decomposition, ax: Axes | None = None) -> Axes:
    """Both numbers with their 95 % intervals, beside their floors, and up to where interpolation may reach.

    Raises:
        EquivProbeError: Matplotlib is not installed.
    """
    from matplotlib.ticker import LogLocator

    ax = axes_or_new(ax)
    rows = ((Shown(cube), "floor: rounding", CALM), (Shown(rotations), "floor: interpolation", ALARM))
    least = min((x for one, *_ in rows for x in (one.value, one.floors[0]) if x > 0), default=1e-16)
    for row, (one, name, colour) in enumerate(rows):
        floor, ends = one.floors[0], [row - 0.35, row + 0.35]
        if floor > 0:
            ax.plot([floor] * 2, ends, color=INK, ls=(":", "--")[row], lw=1.5, label=name)
        if row and floor > 0:
            ax.fill_betweenx(ends, floor, one.reach, color=LINE, lw=0, label="what it may make")
        value, (low, high) = one.value, one.interval
        if value > 0:
            known = math.isfinite(low) and math.isfinite(high)
            span = [[max(value - max(low, least / 3), 0)], [max(high - value, 0)]] if known else None
            ax.errorbar(value, row, xerr=span, fmt="o", color=colour, capsize=4, lw=1.8)
        else:
            ax.annotate("none", (least, row), color=colour, ha="center", va="center")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=6))
    ax.set_yticks((0, 1), (RIGHT_ANGLES, ALL))
    ax.set_ylim(1.6, -0.6)
    ax.set_xlabel(Shown(cube).label)
    legend_above(ax)
    return tidied(ax, grid="x")


@figure
def structures(cube: Decomposition, rotations: Decomposition, ax: Axes | None = None) -> Axes:
    """How both numbers are spread over structures: for each value, the percentage of structures that lie below.

    Raises:
        EquivProbeError: the audit does not hold its structures.
    """
    pairs = ((cube, RIGHT_ANGLES, CALM), (rotations, ALL, ALARM))
    drawn = {name: (by_structure(one), one, colour) for one, name, colour in pairs}
    if not all(len(values) for values, *_ in drawn.values()):
        raise EquivProbeError("a report without structures", "an audit that kept them")
    ax = axes_or_new(ax)
    for name, (values, one, colour) in drawn.items():
        below(ax, values, "structures", colour, name)
        floor = Shown(one).floors[0]
        if is_near(floor, [x for values, *_ in drawn.values() for x in values]):
            ax.axvline(floor, color=colour, ls=":", label=f"its floor {number(floor)}")
    ends = [x for values, *_ in drawn.values() for x in (values[0], values[-1])]
    if min(ends) > 0 and max(ends) > 20 * min(ends):
        ax.set_xscale("log")
    ax.set_xlabel(Shown(cube).label)
    legend_above(ax)
    return tidied(ax)


@figure
def angle(bins: Mapping[str, Sequence[AngleBin]], ax: Axes | None = None) -> Axes:
    """How far predictions rotated back lie from the unrotated ones, against the angle of the rotation.

    Args:
        bins: of both, ``"cube"`` and ``"rotations"``.
        ax: to draw into.

    Raises:
        EquivProbeError: deviations were not kept by angle.
    """
    found = {name: at_angles(bins.get(name, [])) for name in ("cube", "rotations")}
    if not any(found.values()):
        raise EquivProbeError("a report without angles", "squared error of a single output, over proper rotations")
    ax = axes_or_new(ax)
    ax.plot(*_columns(found["rotations"]), color=ALARM, lw=1.8, marker="o", ms=4, label=f"{ALL}, interpolated")
    ax.plot(*_columns(found["cube"]), color=CALM, ls="", marker="s", ms=6, label=f"{RIGHT_ANGLES}, exact")
    ax.set_xlim(0, 184)
    ax.set_ylim(bottom=0)
    ax.set_xticks(range(0, 181, 45))
    ax.set_xlabel("angle of the rotation, degrees")
    ax.set_ylabel("root mean square, unit of the output")
    legend_above(ax)
    return tidied(ax)


def at_angles(bins: Sequence[AngleBin]) -> list[tuple[float, float]]:
    """Angles in degrees, in the middle of their bins, and deviations there."""
    return [((one["low"] + one["high"]) / 2, one["rms"]) for one in bins if math.isfinite(one["rms"])]


def _columns(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [at for at, _ in pairs], [value for _, value in pairs]


def by_structure(found: Decomposition) -> np.ndarray:
    """The numbers of all structures as they are shown, in rising order; nothing if they were not kept."""
    values = found.per_structure.get("equiv")
    return np.array([]) if values is None else np.sort([Shown(found)(x) for x in values.tolist() if math.isfinite(x)])
