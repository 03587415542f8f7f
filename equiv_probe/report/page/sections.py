"""What a page says of one report, section by section, as plain data for the template."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from equiv_probe.report.formatting import number
from equiv_probe.report.page import gradient_sections, viewer
from equiv_probe.report.page.headline import headline
from equiv_probe.report.page.views import Figures, View
from equiv_probe.report.stored import finite
from equiv_probe.results import angular_plots, plots, trajectory_plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from equiv_probe.results.over_time import Bin, OverTime
    from equiv_probe.results.report import Measured, Report

BROKEN = ("broken", "above round-off", "unknown", "")


WORST = 12
"""Rows of the table of structures."""


def view(report: Report, key: str = "r0", *, brief: bool = False) -> View:
    """Everything that a page shows of a report; if brief, the answer and the share of the loss."""
    top = headline(report)
    found = View(
        report,
        key,
        top,
        template="report.html.jinja",
        name=report.model,
        source=report.source,
        symmetry=[m for m in report.measured if math.isfinite(m.rms)],
        losses=[m for m in report.measured if m.labelled is not None],
        protocol=report.protocol,
        failures=report.failures,
        complete=report.complete,
        notes=report.notes,
        blind_spots=report.blind_spots,
    )
    figures = Figures(report, key)
    if found.losses:
        figures.add("share", plots.share, "Parts of the loss", _share_text(found.losses), height=_height(found))
    if report.structures and top is not None and not brief:
        columns = [m for m in report.measured if m.over_structures]
        found.columns = sorted(columns, key=lambda m: m.name != top.about)
        _where(figures, found, top.about)
        _kind(figures, found, top.about)
    if not brief:
        _time(figures, report)
        found.gradients = gradient_sections.sentences(report)
        found.tables = gradient_sections.tables(report)
        gradient_sections.add(figures, report)
    found.figures = figures.by_section
    return found


def _height(found: View) -> float:
    return 1.5 + 0.45 * len(found.losses)


def _share_text(losses: list[Measured]) -> str:
    parts = []
    for m in losses:
        assert m.labelled is not None  # chosen so
        low, high = (100 * end for end in m.labelled.share_interval)
        between = f" ({number(low)} to {number(high)})" if math.isfinite(low) else ""
        parts.append(f"{m.name}: {number(100 * m.labelled.share)} %{between}")
    return f"L_equiv as a part of L_total, with 95 % intervals. {'; '.join(parts)}."


def _profile(profile: OverTime, report: Report, ax: Axes) -> Axes:
    del report
    return plots.profile(profile, ax)


def _where(figures: Figures[Report], found: View, about: str) -> None:
    report = figures.of
    for m in found.columns:
        spread = m.over_structures
        text = (
            f"Half of the structures lie below {number(spread.get('q50', math.nan))} {m.unit}, 95 % below "
            f"{number(spread.get('q95', math.nan))}; the largest has {number(spread.get('max', math.nan))}."
        )
        if m.structures > 1:
            figures.add("where", plots.structures, f"Over structures: {m.name}", text, m.name, main=m.name == about)
    for m in found.columns:
        if m.by_element and m.verdict in BROKEN:
            ranked = sorted(m.by_element.items(), key=lambda item: -finite(item[1]["rms"]))
            listed = ", ".join(f"{element} {number(finite(values['rms']))}" for element, values in ranked[:12])
            text = f"√L_equiv in {m.unit}: {listed}."
            figures.add("where", plots.elements, f"By element: {m.name}", text, m.name, main=m.name == about)
    shown = viewer.shown(report, about)
    found.dataset = viewer.dataset(report, shown)
    drawn = {id(record): place for place, record in enumerate(shown)}
    by_rank = sorted(report.structures, key=lambda record: viewer.rank(record, about))
    found.worst = [record for place, record in enumerate(by_rank) if place < WORST or id(record) in drawn]
    found.places = {row: drawn[id(record)] for row, record in enumerate(found.worst) if id(record) in drawn}


def _kind(figures: Figures[Report], found: View, about: str) -> None:
    for m in sorted(found.symmetry, key=lambda m: m.name != about):
        main = m.name == about
        if not m.angular or not m.equiv > 0 or m.verdict not in BROKEN:
            continue
        resolved = angular_plots.resolved(m)
        bars = [*resolved, angular_plots.left(m)]
        parts = ", ".join(f"{'l = ' if bar.name.isdigit() else ''}{bar.name}: {number(bar.part)} %" for bar in bars)
        caption = (
            "Low degrees are a smooth tilt, high ones are noise from orientation to orientation. Others: degrees that "
            "this plan does not resolve one by one, and all above."
        )
        if resolved:  # all degrees in one bar would say nothing
            title = f"Angular spectrum: {m.name}"
            figures.add("kind", angular_plots.spectrum, title, f"{parts}.", m.name, caption=caption, main=main)
        roots = angular_plots.by_angle(m)
        if len(roots) > 1:
            (first, lowest), (last, highest) = roots[0], roots[-1]
            text = (
                f"From {number(lowest)} {m.unit} between orientations {first - 10} to {first + 10}° apart to "
                f"{number(highest)} {m.unit} at {last - 10} to {last + 10}°."
            )
            figures.add("kind", angular_plots.angle, f"Against the angle: {m.name}", text, m.name, main=main)
        cells = [math.sqrt(max(finite(x), 0.0)) for x in m.angular["by_axis"] if math.isfinite(finite(x))]
        if not cells:
            continue
        text = (
            f"Between {number(min(cells))} and {number(max(cells))} {m.unit} over all axes. Rotates about the axes of "
            "one colour change the prediction alike; the disc is the upper half of the sphere, seen from z."
        )
        figures.add("kind", angular_plots.axis_map, f"Against the axis: {m.name}", text, m.name, polar=True, main=main)


def _binned(one: Bin) -> str:
    """A bin in words; without labels there is no share of a loss."""
    if not one.structures:
        return f"{one.label}: nothing there"
    has_share = math.isfinite(one.share)
    scale, unit, (low, high) = (100, " %", one.share_interval) if has_share else (1, "", one.equiv_interval)
    span = f" ({number(scale * low)} to {number(scale * high)})" if math.isfinite(low) else ""
    what = "" if has_share else "L_equiv "
    return f"{one.label}: {what}{number(scale * (one.share if has_share else one.equiv))}{unit}{span}"


def _time(figures: Figures[Report], report: Report) -> None:
    for profile in report.over:
        text = "; ".join(_binned(one) for one in profile.bins)
        title = f"Over {profile.over}: {profile.stage}/{profile.name}"
        figures.add("time", partial(_profile, profile), title, f"{text}.")
    columns = {name for entry in report.history for name, value in entry.items() if value is not None}
    for name in ("share", "L_total", "L_equiv"):
        if name in columns:
            title = "Share of the loss" if name == "share" else name
            scale, unit = (100, " %") if name == "share" else (1, "")
            last = {
                "/".join(str(entry[key]) for key in ("stage", "output") if entry.get(key)): scale * finite(entry[name])
                for entry in report.history
                if entry.get(name) is not None
            }
            listed = (f"{one + ' ' if one else ''}{number(value)}{unit}" for one, value in last.items())
            text = f"In the end: {', '.join(listed)}."
            figures.add("time", plots.history, f"{title} over the run", text, name)
    for name, (title, label) in trajectory_plots.COLUMNS.items():
        if name in columns and trajectory_plots.TIME in columns:
            times, values = trajectory_plots.column_of(report, name)
            if len(times) < 2:  # one point is no course
                continue
            quantity, _, unit = label.rpartition(", ")
            text = (
                f"{quantity}: {number(values[0])} {unit} at first, {number(values[-1])} {unit} after "
                f"{number(times[-1])} fs; between {number(values.min())} and {number(values.max())}."
            )
            figures.add("time", trajectory_plots.trajectory, f"{title} over the trajectory", text, name)
    if {"angular_change_x_eV_fs", "angular_impulse_x_eV_fs"} <= columns:
        text = "How far the angular momentum moved, and what the net torque of the model makes of it."
        figures.add("time", trajectory_plots.angular_momentum, "Angular momentum over the trajectory", text)
