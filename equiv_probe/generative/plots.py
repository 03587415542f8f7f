"""Figures of the audit of a sampler, as Matplotlib axes: over samples, along the path, against the angle.

Every function draws into the axes it is given, or into a new figure of pyplot's, and returns the axes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import ALARM, CALM, INK, axes_or_new, below, figure, is_near, legend_above, short, tidied
from equiv_probe.report.document import Figure
from equiv_probe.report.formatting import counted, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

    from equiv_probe.generative.end_points import EndPoints


@figure
def samples(one: EndPoints, ax: Axes | None = None) -> Axes:
    """How the deviation is spread over samples: for each value, the percentage of samples that lie below.

    Raises:
        EquivProbeError: the audit did not keep its samples.
    """
    values = np.sort([entry["rms"] for entry in one.by_sample if math.isfinite(entry["rms"])])
    if not len(values):
        raise EquivProbeError("a report without samples", "an audit that kept its samples")
    ax = axes_or_new(ax)
    below(ax, values, "samples")
    for value, label, style in ((one.highest_floor, "floor", ":"), (one.scale, "other noise", "--")):
        if is_near(value, values):
            ax.axvline(value, color=INK, ls=style, lw=1, label=f"{label} {number(value)}")
    if values[0] > 0 and values[-1] > 20 * values[0]:
        ax.set_xscale("log")
    ax.set_xlabel(f"deviation of {short(one.name)}, {short(one.unit)}")
    legend_above(ax, 3)
    return tidied(ax)


@figure
def path(one: EndPoints, ax: Axes | None = None) -> Axes:
    """The deviation at each step of the path, beside the floor and beside other noise.

    Raises:
        EquivProbeError: the path was not measured.
    """
    from matplotlib.ticker import MaxNLocator

    if not one.along_path:
        raise EquivProbeError("a report without a path", "the points of the path", "audit_sampler(..., path=True)")
    steps = [entry["point"] for entry in one.along_path]
    ax = axes_or_new(ax)
    lines = (("rms", "deviation", ALARM, "-"), ("other noise", "other noise", CALM, "--"), ("floor", "floor", INK, ":"))
    few: dict[str, Any] = {"marker": "o", "ms": 3} if len(steps) < 60 else {}
    found = {key: np.array([entry[key] for entry in one.along_path], dtype=float) for key, *_ in lines}
    real = found["rms"][found["rms"] > 10 * np.nan_to_num(found["floor"])]
    is_below = len(real) > 0 and not is_near(one.highest_floor, real)
    for key, label, colour, style in lines:
        if key == "floor" and is_below:
            continue  # far below, it would squeeze what is to be seen
        ax.plot(steps, found[key], color=colour, ls=style, lw=1.8, label=label, **few if key == "rms" else {})
    if any(bool((values > 0).any()) for values in found.values()):
        ax.set_yscale("log", nonpositive="mask")
    if is_below:  # the noise itself, at the start, only rounds
        ax.set_ylim(bottom=real.min() / 3)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step of the path, the noise first")
    ax.set_ylabel(f"{short(one.name)}: root mean square, {short(one.unit)}")
    legend_above(ax, 3)
    return tidied(ax)


@figure
def angle(one: EndPoints, ax: Axes | None = None) -> Axes:
    """The deviation against the angle by which the noise was rotated.

    Raises:
        EquivProbeError: deviations were not kept by angle.
    """
    filled = [entry for entry in one.by_angle if math.isfinite(entry["rms"])]
    if not filled:
        raise EquivProbeError("a report without angles", "an audit by proper rotations")
    ax = axes_or_new(ax)
    middles = [(entry["low"] + entry["high"]) / 2 for entry in filled]
    ax.plot(middles, [entry["rms"] for entry in filled], color=ALARM, lw=1.8, marker="o", ms=4)
    ax.set_xlim(0, 180)
    ax.set_ylim(bottom=0)
    ax.set_xticks(range(0, 181, 45))
    ax.set_xlabel("angle of the rotation, degrees")
    ax.set_ylabel(f"deviation of {short(one.name)}, {short(one.unit)}")
    return tidied(ax)


@figure
def both(one: EndPoints) -> MatplotlibFigure:
    """Over samples, and along the path if there is one, in a figure of its own."""
    from matplotlib.figure import Figure as New

    made = New(figsize=(9 if one.along_path else 5, 3.5), layout="constrained")
    panels = made.subplots(1, 2 if one.along_path else 1, squeeze=False)[0]
    samples(one, panels[0])
    if one.along_path:
        path(one, panels[1])
    return made


def samples_figure(one: EndPoints) -> Figure | None:
    """Over samples, in words too; None of a single sample."""
    if one.samples < 2 or not any(math.isfinite(entry["rms"]) for entry in one.by_sample):
        return None
    spread = one.over_samples
    text = (
        f"Half of the samples deviate by less than {number(spread['q50'])} {one.unit}, 95 % by less than "
        f"{number(spread['q95'])}; the largest deviation is {number(spread['max'])}, of sample "
        f"{counted(spread.get('worst'))}. The floor is {number(one.highest_floor)}."
    )
    return Figure(f"Over samples: {one.name}", lambda ax: samples(one, ax), text)


def angle_figure(one: EndPoints) -> Figure | None:
    """Against the angle, in words too; None of fewer than two bins."""
    filled = [entry for entry in one.by_angle if math.isfinite(entry["rms"])]
    if len(filled) < 2:
        return None
    ends = (
        f"{number(entry['rms'])} {one.unit} where the noise rotated by {entry['low']:g} to {entry['high']:g}°"
        for entry in (filled[0], filled[-1])
    )
    count = sum(entry["count"] for entry in filled)
    text = f"{' and '.join(ends)}. In bins of 20 degrees, {count:.0f} runs."
    return Figure(f"Against the angle: {one.name}", lambda ax: angle(one, ax), text)


def path_figure(one: EndPoints) -> Figure | None:
    """Along the path, in words too; None of fewer than two points."""
    roots = [entry["rms"] for entry in one.along_path]
    if len(roots) < 2 or not any(map(math.isfinite, roots)):
        return None
    top = int(np.nanargmax(roots))
    text = (
        f"{number(roots[0])} {one.unit} at the start, {number(roots[-1])} after {len(roots) - 1} "
        f"step{'s' * (len(roots) != 2)}; the largest is {number(roots[top])}, at step {top}, beside a "
        f"floor of {number(one.highest_floor)}. Other noise shows how far two paths can lie apart."
    )
    return Figure(f"Along the path: {one.name}", lambda ax: path(one, ax), text)
