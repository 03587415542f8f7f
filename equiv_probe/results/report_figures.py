"""Figures of a report, each with what it shows in words: where the error is, of what kind, and its course."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from equiv_probe.report.document import PAGE, Figure, Section
from equiv_probe.report.formatting import finite, number
from equiv_probe.results import angular_plots, plots, trajectory_plots
from equiv_probe.results.verdict_words import BROKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from equiv_probe.report.document import Block
    from equiv_probe.results.measured import Measured
    from equiv_probe.results.structure_table import StructureRecord

    History = Sequence[Mapping[str, Any]]

OUTDATED = 0.8
"""What was measured before this part of a run is not of its end."""


def main_first(made: Sequence[tuple[str, Figure]], about: str) -> list[Block]:
    """Figures of the quantity that the headline is about; those of the others are folded up on a page."""
    others = [figure for name, figure in made if name != about]
    return [
        *(figure for name, figure in made if name == about),
        Section("Other quantities", others, folded=True, on=PAGE),
    ]


def where_figures(
    measured: Sequence[Measured], records: Sequence[StructureRecord], about: str
) -> list[tuple[str, Figure]]:
    """How the error is spread over structures and over elements."""
    columns = sorted((m for m in measured if m.over_structures), key=lambda m: m.name != about)
    made = [
        (m.name, _figure(f"Over structures: {m.name}", _spread_text(m), plots.structures, measured, records, m.name))
        for m in columns
        if m.structures > 1 and any(math.isfinite(root) for root in plots.roots(records, m.name))
    ]
    for m in columns:
        if m.by_element and m.verdict in BROKEN:
            ranked = sorted(m.by_element.items(), key=lambda item: -finite(item[1]["rms"]))
            listed = ", ".join(f"{element} {number(finite(values['rms']))}" for element, values in ranked[:12])
            text = f"√L_equiv in {m.unit}: {listed}."
            made.append((m.name, _figure(f"By element: {m.name}", text, plots.elements, measured, m.name)))
    return made


def kind_figures(measured: Sequence[Measured], about: str) -> list[tuple[str, Figure]]:
    """The angular spectrum, and how much predictions differ against angle and axis of a rotation."""
    made = []
    for m in sorted(measured, key=lambda m: m.name != about):
        if m.angular and m.equiv > 0 and m.verdict in BROKEN:
            made += [
                (m.name, figure)
                for figure in (_spectrum(measured, m), _angle(measured, m), _axes(measured, m))
                if figure
            ]
    return made


def _figure(title: str, text: str, draw: Callable[..., Any], *args: Any, **how: Any) -> Figure:
    return Figure(title, lambda ax: draw(*args, ax=ax), text, **how)


def _spread_text(m: Measured) -> str:
    spread = m.over_structures
    return (
        f"Half of the structures lie below {number(spread.get('q50', math.nan))} {m.unit}, 95 % below "
        f"{number(spread.get('q95', math.nan))}; the largest has {number(spread.get('max', math.nan))}."
    )


def _spectrum(measured: Sequence[Measured], m: Measured) -> Figure | None:
    resolved = angular_plots.resolved(m)
    if not resolved:  # all degrees in one bar would say nothing
        return None
    bars = [*resolved, angular_plots.left(m)]
    parts = ", ".join(f"{'l = ' if bar.name.isdigit() else ''}{bar.name}: {number(bar.part)} %" for bar in bars)
    caption = (
        "Low degrees are a smooth tilt, high ones are noise from orientation to orientation. Others: degrees that "
        "this plan does not resolve one by one, and all above."
    )
    title = f"Angular spectrum: {m.name}"
    return _figure(title, f"{parts}.", angular_plots.spectrum, measured, m.name, caption=caption)


def _angle(measured: Sequence[Measured], m: Measured) -> Figure | None:
    roots = angular_plots.by_angle(m)
    if len(roots) < 2:
        return None
    (first, lowest), (last, highest) = roots[0], roots[-1]
    text = (
        f"From {number(lowest)} {m.unit} between orientations {first - 10} to {first + 10}° apart to "
        f"{number(highest)} {m.unit} at {last - 10} to {last + 10}°."
    )
    return _figure(f"Against the angle: {m.name}", text, angular_plots.angle, measured, m.name)


def _axes(measured: Sequence[Measured], m: Measured) -> Figure | None:
    cells = [math.sqrt(max(finite(x), 0.0)) for x in m.angular["by_axis"] if math.isfinite(finite(x))]
    if not cells:
        return None
    text = (
        f"Between {number(min(cells))} and {number(max(cells))} {m.unit} over all axes, as the colours. Rotations "
        "about the axes of one colour change the prediction by the same amount; the disc is the upper half of the "
        "sphere, seen from z."
    )
    return _figure(f"Against the axis: {m.name}", text, angular_plots.axis_map, measured, m.name, polar=True)


def course_figures(history: History) -> list[Figure]:
    """Figures of losses and shares, of columns of a trajectory and of its angular momentum, where there are any."""
    columns = {name for entry in history for name, value in entry.items() if value is not None}
    made = []
    if plots.time_column(history) is not None:
        made += [_course(history, name) for name in ("share", "L_total", "L_equiv") if name in columns]
    if trajectory_plots.TIME in columns:
        named = [name for name in trajectory_plots.COLUMNS if name in columns]
        made += [found for name in named if (found := _trajectory(history, name)) is not None]
    if trajectory_plots.has_angular_momentum(history):
        text = "How far the angular momentum moved, and what the net torque of the model makes of it."
        draw = partial(trajectory_plots.angular_momentum, history)
        made.append(Figure("Angular momentum over the trajectory", draw, text))
    return made


def _course(history: History, name: str) -> Figure:
    title = "Share of the loss" if name == "share" else name
    scale, unit = (100, " %") if name == "share" else (1, "")
    last = {
        "/".join(str(entry[key]) for key in ("stage", "output") if entry.get(key)): entry
        for entry in history
        if entry.get(name) is not None
    }
    end = max((entry["step"] for entry in history if entry.get("step") is not None), default=None)
    listed = [
        f"{one + ' ' if one else ''}{number(scale * finite(entry[name]))}{unit}{_when(entry.get('step'), end)}"
        for one, entry in last.items()
    ]
    text = f"In the end: {', '.join(listed)}."
    return Figure(f"{title} over the run", lambda ax: plots.history(history, name, ax=ax), text)


def _when(step: float | None, end: float | None) -> str:
    """At which step something was measured last, where the run went on for long after it."""
    return f" at step {step} of {end}" if step is not None and end is not None and step < OUTDATED * end else ""


def _trajectory(history: History, name: str) -> Figure | None:
    title, label = trajectory_plots.COLUMNS[name]
    times, values = trajectory_plots.column(history, name)
    if len(times) < 2:  # one point is no course
        return None
    quantity, _, unit = label.rpartition(", ")
    text = (
        f"{quantity}: {number(values[0])} {unit} at first, {number(values[-1])} {unit} after "
        f"{number(times[-1])} fs; between {number(values.min())} and {number(values.max())}."
    )
    return Figure(f"{title} over the trajectory", lambda ax: trajectory_plots.trajectory(history, name, ax), text)
