"""Figures of the course of a run or of a trajectory, each with what it shows in words."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from equiv_probe.report.document import Figure
from equiv_probe.report.formatting import finite, number
from equiv_probe.results import plots, trajectory_plots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    History = Sequence[Mapping[str, Any]]


OUTDATED = 0.8
"""What was measured before this part of a run is not of its end."""


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
