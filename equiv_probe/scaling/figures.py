"""Figures of fits, allocations, data efficiency and gaps, with labelled axes, in colours that all can tell apart.

>>> from equiv_probe.scaling import fit
>>> law = fit({"D": [1e2, 1e3, 1e4, 1e5], "L_total": [3.0, 1.1, 0.4, 0.2]}, "D")
>>> drawing = figure_of(law, unit="eV²")
>>> drawing.axes[0].get_xlabel(), drawing.axes[0].get_ylabel()
('D', 'L_total, eV²')
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.report.axes import CALM, INK, SERIES, SIZE, figure, short, tidied
from equiv_probe.scaling.allocation import Allocation
from equiv_probe.scaling.data_efficiency import DataEfficiency
from equiv_probe.scaling.gap_result import Gap
from equiv_probe.scaling.law import Fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from equiv_probe.scaling.estimates import Estimate
    from equiv_probe.scaling.table import Table

Result = Fit | Allocation | DataEfficiency | Gap
UNITS = {"seconds": "training time, s", "hours": "training time, h", "step": "training steps"}


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        draw: into axes.
        text: what a reader who does not see it should know.
    """

    draw: Callable[[Axes], None]
    text: str


def panels(result: Result, runs: Table | None = None, unit: str = "") -> list[Panel]:
    """What there is to draw of a result.

    Args:
        result: of :mod:`equiv_probe.scaling`.
        runs: that were fitted, to be drawn beside their law.
        unit: of the loss.
    """
    if isinstance(result, Fit):
        return [
            Panel(partial(_law, result, runs, unit), f"{result.loss} against {' and '.join(result.x)}, and the law.")
        ]
    if isinstance(result, Allocation):
        return [Panel(partial(_allocation, result), "The best sizes against compute.")]
    if isinstance(result, DataEfficiency):
        found = [Panel(partial(_efficiency, result, unit), f"{result.loss} against {result.x} for both models.")]
        text = f"How much more data {result.names[0]} needs than {result.names[1]}, against the loss."
        needs = f"{result.x} needed: {short(result.names[0])} / {short(result.names[1])}"
        return [*found, Panel(partial(_factor, result.losses, result.factor, needs, (result.loss, unit)), text)]
    found = [
        Panel(partial(_curves, result, unit), f"{result.loss} against {result.x} for both models. {result.verdict}.")
    ]
    if result.losses:
        needs = f"{result.x} needed: {short(result.names[1])} / {short(result.names[0])}"
        text = "The ratio of what both models need to come to a loss."
        found.append(Panel(partial(_factor, result.losses, result.factor, needs, (result.loss, unit)), text))
    return found


@figure
def figure_of(result: Result, runs: Table | None = None, unit: str = "") -> Figure:
    """Draw a result; arguments as for :func:`panels`.

    Raises:
        EquivProbeError: Matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    parts = panels(result, runs, unit)
    drawing = Figure(figsize=(SIZE[0] * len(parts), SIZE[1]), layout="constrained")
    for ax, part in zip(np.atleast_1d(drawing.subplots(1, len(parts))), parts, strict=True):
        part.draw(ax)
    return drawing


def _labelled(ax: Axes, x: str, y: str, unit: str = "") -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(UNITS.get(x, short(x)))
    ax.set_ylabel(short(y) + (f", {unit}" if unit else ""))
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best", fontsize="small")
    _ticked(ax)
    tidied(ax)


def _ticked(ax: Axes) -> None:
    """Numbers on axes that span less than some decades, too."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
        if high / low < 3:
            axis.set_major_locator(MaxNLocator(4))
        elif high / low < 100:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def _law(law: Fit, runs: Table | None, unit: str, ax: Axes, *, colour: str = CALM, label: str = "") -> None:
    if len(law.x) == 2:
        _laws(law, runs, unit, ax)
        return
    name = law.x[0]
    sizes = np.geomspace(*law.range[name], 100)
    ax.plot(sizes, law.at(sizes), color=colour, lw=1.8, label=short(label or law.formula))
    if len(law.draws):
        ax.fill_between(sizes, *law.band(sizes), color=colour, alpha=0.2, lw=0)
    if runs is not None:
        ax.plot(runs.numbers(name), runs.numbers(law.loss), "o", color=colour, ms=4)
    if law["E"].value > 0:
        ax.axhline(law["E"].value, color=colour, ls=":", lw=1)
    _labelled(ax, name, law.loss, unit)


def _laws(law: Fit, runs: Table | None, unit: str, ax: Axes) -> None:
    """Against the second variable, a line for each size of the first, from dark to light as it grows."""
    from matplotlib import colormaps

    first, second = law.x
    steps = np.geomspace(*law.range[second], 100)
    known = None if runs is None else (runs.numbers(first), runs.numbers(second), runs.numbers(law.loss))
    sizes = np.unique(known[0]) if known is not None else np.geomspace(*law.range[first], 4)
    shown = sizes if len(sizes) <= 8 else sizes[:: -(-len(sizes) // 8)]
    for place, size in enumerate(shown):
        colour = colormaps["cividis"](0.9 * place / max(len(shown) - 1, 1))
        ax.plot(steps, law.at(size, steps), color=colour, lw=1.5, label=f"{first} = {size:.3g}")
        if known is not None:
            own = known[0] == size
            ax.plot(known[1][own], known[2][own], "o", color=colour, ms=4)
    _labelled(ax, second, law.loss, unit)


def _allocation(found: Allocation, ax: Axes) -> None:
    for name, estimates, colour in zip(found.names, (found.n, found.d), (CALM, SERIES[0]), strict=True):
        _with_bars(ax, found.compute, estimates, colour, name)
    _labelled(ax, "compute C", "best size")


def _efficiency(found: DataEfficiency, unit: str, ax: Axes) -> None:
    for (name, law), colour in zip(found.laws.items(), (SERIES[0], CALM), strict=True):
        _law(law, found.runs[name], unit, ax, colour=colour, label=name)


def _factor(losses: list[float], factor: list[Estimate], needs: str, loss: tuple[str, str], ax: Axes) -> None:
    _with_bars(ax, losses, factor, INK, "")
    ax.axhline(1, color=INK, ls=":", lw=1)
    _labelled(ax, loss[0], needs)
    ax.set_xlabel(short(loss[0]) + (f", {loss[1]}" if loss[1] else ""))
    ax.set_ylabel(needs)
    ax.invert_xaxis()


def _curves(found: Gap, unit: str, ax: Axes) -> None:
    for name, curve, (low, high), colour in zip(found.names, found.curves, found.bands, (SERIES[0], CALM), strict=True):
        ax.plot(found.at, curve, color=colour, lw=1.8, label=short(name))
        if np.isfinite(low).all():
            ax.fill_between(found.at, low, high, color=colour, alpha=0.2, lw=0)
    for crossing in found.crossings:
        ax.axvline(crossing.x.value, color=INK, ls=":", lw=1.2)
        if not np.isnan(crossing.x.low):
            ends = max(crossing.x.low, found.at[0]), min(crossing.x.high, found.at[-1])
            ax.axvspan(*ends, color=INK, alpha=0.08, lw=0)
    _labelled(ax, found.x, found.loss, unit)


def _with_bars(ax: Axes, x: list[float], estimates: list[Estimate], colour: str, label: str) -> None:
    """Points with intervals; where there is no bound the bar leaves the axes."""
    at = np.array(x)
    value = np.array([one.value for one in estimates])
    there = np.isfinite(value) & (value > 0)
    ax.plot(at[there], value[there], "o-", color=colour, ms=4, lw=1.2, label=label or None)
    ax.set_yscale("log")
    for place in np.flatnonzero(there):
        one = estimates[place]
        if not np.isnan(one.low):
            low, high = max(one.low, value[place] / 1e3), min(one.high, value[place] * 1e3)
            ax.plot([at[place]] * 2, [low, high], color=colour, lw=1.2, alpha=0.6)
    spread = value[there]
    if len(spread):
        known = [v for one in estimates for v in (one.low, one.high) if np.isfinite(v) and v > 0]
        low, high = min([*spread, *known]), max([*spread, *known])
        ax.set_ylim(max(low, spread.min() / 30) / 1.3, min(high, spread.max() * 30) * 1.3)
