"""Figures of what kind of error it is: the angular spectrum, and differences against angle and axis of a rotation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.variogram import ANGLE_EDGES, BANDS, SECTORS
from equiv_probe.report.axes import ALARM, CALM, INK, axes_or_new, figure, short, tidied
from equiv_probe.report.formatting import finite, number
from equiv_probe.results.measured import chosen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from equiv_probe.results.measured import Measured

MIDDLES = [(a + b) // 2 for a, b in pairwise(ANGLE_EDGES)]
"""Middles of the bins of the angle, in degrees."""
RESOLVED = 30.0
"""Half-width of the 95 % interval, in percent of ``L_equiv``, up to which a degree is shown by itself."""


@figure
def spectrum(quantities: Sequence[Measured], quantity: str | None = None, ax: Axes | None = None) -> Axes:
    """At which angular degrees ``L_equiv`` lies, with 95 % intervals (two standard errors).

    Degrees that the plan does not resolve one by one are drawn together: what is left of ``L_equiv``.

    Raises:
        EquivProbeError: the report holds no spectrum.
    """
    measured = angular_of(quantities, quantity)
    bars = [*resolved(measured), left(measured)]
    ax = axes_or_new(ax)
    ax.bar(range(len(bars)), [bar.part for bar in bars], color=[ALARM] * (len(bars) - 1) + [CALM], width=0.6)
    ax.errorbar(
        range(len(bars)),
        [bar.part for bar in bars],
        yerr=[0.0 if math.isnan(bar.reach) else bar.reach for bar in bars],
        fmt="none",
        color=INK,
        capsize=4,
        lw=1.5,
    )
    ax.axhline(0, color=INK, lw=0.8)
    ax.set_xticks(range(len(bars)), [bar.name for bar in bars])
    ax.set_xlabel("angular degree l")
    ax.set_ylabel(f"part of L_equiv of {short(measured.name)}, %")
    return tidied(ax, grid="y")


@dataclass(frozen=True)
class Bar:
    """The part of ``L_equiv`` at a degree, and the reach of its 95 % interval, in percent."""

    name: str
    part: float
    reach: float


def resolved(measured: Measured) -> list[Bar]:
    """The lowest degrees, up to the first that is not known to within ``RESOLVED`` percent of ``L_equiv``."""
    scale = 100 / measured.equiv
    found = measured.angular
    bars = [
        Bar(str(degree), scale * finite(power), 2 * scale * finite(error))
        for degree, (power, error) in enumerate(zip(found["power"], found["stderr"], strict=True), 1)
    ]
    return list(takewhile(lambda bar: bar.reach <= RESOLVED, bars))


def left(measured: Measured) -> Bar:
    """What the resolved degrees leave of ``L_equiv``; its error bar is theirs, added in quadrature."""
    bars = resolved(measured)
    return Bar("others", 100 - sum(bar.part for bar in bars), math.hypot(*(bar.reach for bar in bars)))


@figure
def angle(quantities: Sequence[Measured], quantity: str | None = None, ax: Axes | None = None) -> Axes:
    """How much two predictions differ against the angle of the rotation between them.

    Raises:
        EquivProbeError: the report holds no such differences.
    """
    measured = angular_of(quantities, quantity)
    roots = [math.nan if math.isnan(x) else math.sqrt(max(x, 0.0)) for x in map(finite, measured.angular["by_angle"])]
    ax = axes_or_new(ax)
    ax.plot(MIDDLES, roots, color=ALARM, marker="o", lw=2)
    if math.isfinite(measured.rms):
        ax.axhline(measured.rms, color=CALM, ls="--", label=f"√L_equiv, {number(measured.rms)}")
        ax.legend(loc="lower right")
    ax.set_xlim(0, 180)
    ax.set_xticks(range(0, 181, 45))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("angle between two orientations, degrees")
    ax.set_ylabel(f"difference of {short(measured.name)} / √2, {short(measured.unit)}")
    return tidied(ax)


def by_angle(measured: Measured) -> list[tuple[int, float]]:
    """Middles of the bins of angles that hold any pairs, in degrees, and the root differences there."""
    pairs = zip(MIDDLES, map(finite, measured.angular["by_angle"]), strict=True)
    return [(middle, math.sqrt(max(value, 0.0))) for middle, value in pairs if math.isfinite(value)]


@figure
def axis_map(quantities: Sequence[Measured], quantity: str | None = None, ax: Axes | None = None) -> Axes:
    """How much two predictions differ against the axis of the rotation between them, on a map of the upper half sphere.

    Equal areas of the disc are equal areas of the sphere; its rim is the plane of x and y, its centre z. Given axes
    must be polar.

    Raises:
        EquivProbeError: the report holds no such differences.
    """
    measured = angular_of(quantities, quantity)
    stored = np.array([finite(x) for x in measured.angular["by_axis"]])
    if np.isnan(stored).all():
        raise EquivProbeError(
            "a report without pairs of orientations", "a plan of several replicates", 'RotationPlan("tetrahedral")'
        )
    cells = np.sqrt(np.maximum(stored, 0.0))
    ax = axes_or_new(ax, projection="polar")
    heights = np.linspace(0, 1, BANDS + 1)
    radii = np.sqrt(1 - heights)  # Lambert's equal-area projection
    fine = 6  # the sides of a cell are straight: many small ones make a round disc
    sectors = np.linspace(0, 2 * math.pi, SECTORS * fine + 1)
    grid = cells.reshape(BANDS, SECTORS)[::-1].repeat(fine, axis=1)
    ticks = _ticks(cells)
    mesh = ax.pcolormesh(
        sectors, radii[::-1], grid, vmin=ticks[0], vmax=ticks[-1], cmap="cividis", edgecolors="face", lw=0.3
    )
    ax.grid(visible=False)
    ax.set_yticks([0], ["z"], color="white")
    ax.set_xticks([0, math.pi / 2, math.pi, 1.5 * math.pi], ["x", "y", "−x", "−y"])
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=0.85, pad=0.12, ticks=ticks)
    bar.ax.set_yticks(ticks, [number(x) for x in ticks])
    bar.set_label(f"difference of {short(measured.name)} / √2, {short(measured.unit)}")
    bar.outline.set_visible(False)
    return ax


def angular_of(quantities: Sequence[Measured], quantity: str | None = None) -> Measured:
    """The quantity asked for, or the first, with what kind of error it has."""
    wanted = "a quantity with an angular spectrum: audit it again with proper rotations"
    return chosen(quantities, quantity, lambda m: bool(m.angular) and m.equiv > 0, wanted)


def _ticks(values: Any) -> list[float]:
    """The ends and the middle of the colours: from 0, unless differences between axes could not be seen then."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    low = low if high / 2 < low < high else 0.0
    return [low, (low + high) / 2, high]
