"""Figures of fits, allocations, data efficiency and gaps, with labelled axes, in colours that all can distinguish.

>>> from equiv_probe.scaling import fit
>>> law = fit({"D": [1e2, 1e3, 1e4, 1e5], "L_total": [3.0, 1.1, 0.4, 0.2]}, "D", unit="eV²")
>>> drawing = figure_of(law)
>>> drawing.axes[0].get_xlabel(), drawing.axes[0].get_ylabel()
('training structures D', 'L_total, eV²')
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from equiv_probe.report.axes import INK, SIZE, figure, short, tidied
from equiv_probe.report.document import HEIGHT, Figure
from equiv_probe.scaling.estimates import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from equiv_probe.report.document import Documented
    from equiv_probe.scaling.estimates import Estimate
    from equiv_probe.scaling.solver import Array

AXES = {
    "N": "parameters N",
    "D": "training structures D",
    "C": "compute C",
    "seconds": "training time, s",
    "hours": "training time, h",
    "step": "training steps",
}
"""What columns are called beside an axis."""
SHOWN = 8
"""Lines of a figure."""


def label_of(name: str, unit: str = "") -> str:
    """What stands beside the axis of a column.

    >>> label_of("seconds"), label_of("L_total", "eV²")
    ('training time, s', 'L_total, eV²')
    """
    return AXES.get(name, short(name)) + (f", {unit}" if unit else "")


@dataclass(frozen=True)
class Line:
    """A line with its band and the points that it goes through.

    Attributes:
        label: of the line.
        x: positive, ``(G,)``.
        y: likewise.
        colour: of all.
        band: ends of its interval, ``(G,)`` each; NaN where there is none.
        points: x and y of what was measured, ``(n,)`` each.
        floor: where it goes; 0 is nowhere.
    """

    label: str
    x: Array
    y: Array
    colour: str
    band: tuple[Array, Array] | None = None
    points: tuple[Array, Array] | None = None
    floor: float = 0.0


@figure
def figure_of(result: Documented, runs: object = None, unit: str = "") -> Drawing:
    """Draw all figures of a result side by side.

    Args:
        result: such as a :class:`Fit` or a :class:`Gap`.
        runs: deprecated: results hold the runs that were fitted.
        unit: deprecated: of the loss; give it to what makes the result.

    Raises:
        EquivProbeError: Matplotlib is not installed.
    """
    from matplotlib.figure import Figure as Drawing

    if runs is not None or unit:
        warnings.warn("figure_of takes a result alone: fit(..., unit=...)", DeprecationWarning, stacklevel=3)
        result = msgspec.structs.replace(result, unit=unit) if hasattr(result, "unit") else result  # type: ignore[type-var]
    parts = [block for block in result.document().each() if isinstance(block, Figure)]
    height = max((part.height for part in parts), default=HEIGHT)
    drawing = Drawing(figsize=(SIZE[0] * max(len(parts), 1), height), layout="constrained")
    for ax, part in zip(np.atleast_1d(drawing.subplots(1, len(parts))), parts, strict=True):
        part.draw(ax)
    return drawing


def curves(
    lines: Sequence[Line], x: str, y: str, ax: Axes, *, crossings: Sequence[Estimate] = (), title: str = ""
) -> Axes:
    """Lines on logarithmic axes."""
    for one in lines:
        ax.plot(one.x, one.y, color=one.colour, lw=1.6, label=short(one.label))
        if one.band is not None and np.isfinite(one.band[0]).all():
            ax.fill_between(one.x, *one.band, color=one.colour, alpha=0.2, lw=0)
        if one.points is not None:
            ax.plot(*one.points, "o", color=one.colour, ms=4)
        if one.floor > 0:
            ax.axhline(one.floor, color=one.colour, ls=":", lw=1)
    left, right = (float(end) for end in (min(one.x.min() for one in lines), max(one.x.max() for one in lines)))
    for place in crossings:
        ax.axvline(place.value, color=INK, ls=":", lw=1.2)
        if not math.isnan(place.low):
            ax.axvspan(max(place.low, left), min(place.high, right), color=INK, alpha=0.08, lw=0)
    return _finished(ax, x, y, title)


def spread(sizes: Array) -> Array:
    """Some of many sizes: as many as there may be lines."""
    return np.asarray(sizes[:: -(-len(sizes) // SHOWN)])


def family(sizes: Array, points: Array, law: Callable[[float, Array], Array]) -> list[Line]:
    """A law of two sizes beside its runs ``(n, 3)``: against the second, a line for each of the first."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    steps = np.geomspace(points[:, 1].min(), points[:, 1].max(), 100)
    colours = [to_hex(colormaps["cividis"](0.3 + 0.55 * k / max(len(sizes) - 1, 1))) for k in range(len(sizes))]
    own = [points[points[:, 0] == size].T for size in sizes]
    return [
        Line(shown(size), steps, law(size, steps), colour, points=(runs[1], runs[2]))
        for size, colour, runs in zip(sizes, colours, own, strict=True)
    ]


def bars(
    at: Sequence[float],
    series: Mapping[str, tuple[Sequence[Estimate], str]],
    x: str,
    y: str,
    ax: Axes,
    *,
    even: float = 0,
) -> Axes:
    """Points with intervals on logarithmic axes; where there is no bound the bar leaves the axes."""
    ends: list[float] = []
    for name, (estimates, colour) in series.items():
        there = [(place, one) for place, one in zip(at, estimates, strict=True) if 0 < one.value < math.inf]
        values = [one.value for _, one in there]
        ax.plot([place for place, _ in there], values, "o-", color=colour, ms=4, lw=1.2, label=short(name))
        for place, one in there:
            ends += [one.value, *(end for end in (one.low, one.high) if min(values) / 30 < end < max(values) * 30)]
            if not math.isnan(one.low):
                low, high = max(one.low, one.value / 1e3), min(one.high, one.value * 1e3)
                ax.plot([place] * 2, [low, high], color=colour, lw=1.2, alpha=0.6)
    if even:
        ax.axhline(even, color=INK, ls=":", lw=1)
    if ends:
        ax.set_ylim(min(ends) / 1.3, max(ends) * 1.3)
    return _finished(ax, x, y)


def ratio(
    losses: Sequence[float], factor: Sequence[Estimate], names: tuple[str, str], x: str, loss: str
) -> list[Figure]:
    """The figure of what one model needs over what another needs, against the loss; none if nothing is finite."""
    if not any(0 < one.value < math.inf for one in factor):
        return []
    over, under = names

    def draw(ax: Axes) -> Axes:
        bars(losses, {"": (factor, INK)}, loss, f"{x} needed: {short(over)} / {short(under)}", ax, even=1)
        ax.invert_xaxis()
        return ax

    text = f"What {over} needs over what {under} needs to come to a loss, with intervals; training goes to the right."
    return [Figure(f"Ratio of {x} against the loss", draw, text)]


def legend_rows(count: int) -> int:
    """How many rows of a legend so many lines take."""
    return 0 if count < 2 else -(-count // _columns(count))


def _columns(count: int) -> int:
    return count if count <= 2 else 4


def _finished(ax: Axes, x: str, y: str, title: str = "") -> Axes:
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    _, labels = ax.get_legend_handles_labels()
    if len(labels) > 1:  # above the axes, where it hides no data
        ax.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=_columns(len(labels)), title=title or None,
            fontsize="small", title_fontsize="small", handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
    _ticked(ax)
    return tidied(ax)


def _ticked(ax: Axes) -> None:
    """Numbers on axes that span less than some decades, too."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
        if high / low < 3:
            axis.set_major_locator(MaxNLocator(4))
        elif high / low < 100:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
