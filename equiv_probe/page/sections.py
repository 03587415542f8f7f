"""What a page says of one report, section by section, as plain data for the template."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from equiv_probe import angular_plots, plots, trajectory_plots
from equiv_probe.axes import tidied, value_of
from equiv_probe.page import viewer
from equiv_probe.page.figures import svg
from equiv_probe.page.headline import Headline, headline
from equiv_probe.report_table import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from markupsafe import Markup
    from matplotlib.axes import Axes

    from equiv_probe.over_time import OverTime
    from equiv_probe.report import Measured, Report

BROKEN = ("broken", "above round-off", "unknown", "")


@dataclass(frozen=True)
class Figure:
    """A figure, its title, the sentence below it, and whether it is about what the headline is about."""

    title: str
    image: Markup
    caption: str
    main: bool = True


@dataclass
class View:
    """One report on a page.

    Attributes:
        report: it.
        key: unlike any other report's on the page; for ids.
        headline: the answer.
        symmetry: measurements of the symmetry error.
        losses: measurements of a loss.
        figures: by section: share, where, kind, time.
        worst: records of the worst structures, those first that can be shown in 3D.
        columns: the quantities that the table of the worst structures shows.
        dataset: for the 3D view, or None.
    """

    report: Report
    key: str
    headline: Headline | None
    symmetry: list[Measured] = field(default_factory=list)
    losses: list[Measured] = field(default_factory=list)
    figures: dict[str, list[Figure]] = field(default_factory=dict)
    worst: list[dict[str, Any]] = field(default_factory=list)
    columns: list[Measured] = field(default_factory=list)
    dataset: dict[str, Any] | None = None


WORST = 12
"""Rows of the table of structures."""


def view(report: Report, key: str = "r0", *, brief: bool = False) -> View:
    """Everything that a page shows of a report; if brief, the answer and the share of the loss."""
    top = headline(report)
    found = View(
        report,
        key,
        top,
        symmetry=[m for m in report.measured if math.isfinite(m.rms)],
        losses=[m for m in report.measured if m.labelled is not None],
    )
    figures = _Figures(report, key)
    if found.losses:
        figures.add("share", plots.share, "Parts of the loss", _share_text(found.losses), height=_height(found))
    if report.structures and top is not None and not brief:
        columns = [m for m in report.measured if m.over_structures]
        found.columns = sorted(columns, key=lambda m: m.name != top.about)
        _where(figures, found, top.about)
        _kind(figures, found, top.about)
    if not brief:
        _time(figures, report)
    found.figures = figures.by_section
    return found


class _Figures:
    """Figures by section, each with an id of its own."""

    def __init__(self, report: Report, key: str) -> None:
        self.report, self.key = report, key
        self.by_section: dict[str, list[Figure]] = {}

    def add(
        self,
        section: str,
        draw: Callable[..., Axes],
        title: str,
        text: str,
        *args: Any,
        caption: str = "",
        main: bool = True,
        **how: Any,
    ) -> None:
        place = sum(map(len, self.by_section.values()))
        image = svg(lambda ax: draw(self.report, *args, ax=ax), f"{self.key}-f{place}", f"{title}. {text}", **how)
        self.by_section.setdefault(section, []).append(Figure(title, image, caption or text, main))


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
    """Of the input that the losses are binned by; its title stands above the figure."""
    del report
    profile.plot(ax)
    ax.set_title("")
    return tidied(ax)


def _where(figures: _Figures, found: View, about: str) -> None:
    report = found.report
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
            ranked = sorted(m.by_element.items(), key=lambda item: -value_of(item[1]["rms"]))
            listed = ", ".join(f"{element} {number(value_of(values['rms']))}" for element, values in ranked[:12])
            text = f"√L_equiv in {m.unit}: {listed}."
            figures.add("where", plots.elements, f"By element: {m.name}", text, m.name, main=m.name == about)
    shown = viewer.shown(report, about)
    rest = [record for record in report.structures if all(record is not one for one in shown)]
    rest.sort(key=lambda record: -(record["quantities"].get(about, {}).get("rms") or 0.0))
    found.dataset = viewer.dataset(report, shown)
    found.worst = [*shown, *rest][: max(WORST, len(shown))]


def _kind(figures: _Figures, found: View, about: str) -> None:
    for m in sorted(found.symmetry, key=lambda m: m.name != about):
        main = m.name == about
        if not m.angular or not m.equiv > 0 or m.verdict not in BROKEN:
            continue
        bars = [*angular_plots.resolved(m), angular_plots.left(m)]
        parts = ", ".join(f"{'l = ' if bar.name.isdigit() else ''}{bar.name}: {number(bar.part)} %" for bar in bars)
        caption = (
            "Low degrees are a smooth tilt, high ones are noise from orientation to orientation. Others: degrees that "
            "this plan does not resolve one by one, and all above."
        )
        figures.add(
            "kind",
            angular_plots.spectrum,
            f"Angular spectrum: {m.name}",
            f"{parts}.",
            m.name,
            caption=caption,
            main=main,
        )
        roots = [math.sqrt(max(value_of(x), 0.0)) for x in m.angular["by_angle"] if x is not None]
        text = (
            f"From {number(roots[0])} {m.unit} between orientations less than 20° apart to {number(roots[-1])} at "
            "more than 160°."
        )
        figures.add("kind", angular_plots.angle, f"Against the angle: {m.name}", text, m.name, main=main)
        cells = [math.sqrt(max(x, 0.0)) for x in m.angular["by_axis"] if x is not None]
        text = (
            f"Between {number(min(cells))} and {number(max(cells))} {m.unit} over all axes. Turns about the axes of "
            "one colour change the prediction alike; the disc is the upper half of the sphere, seen from z."
        )
        figures.add("kind", angular_plots.axis_map, f"Against the axis: {m.name}", text, m.name, polar=True, main=main)


def _time(figures: _Figures, report: Report) -> None:
    for profile in report.over:
        shares = [(one.label, one.share, one.equiv) for one in profile.bins]
        text = "; ".join(
            f"{label}: {f'{number(100 * share)} %' if math.isfinite(share) else number(equiv)}"
            for label, share, equiv in shares
        )
        title = f"Over {profile.over}: {profile.stage}/{profile.name}"
        figures.add("time", partial(_profile, profile), title, f"{text}.")
    columns = {name for entry in report.history for name, value in entry.items() if value is not None}
    for name in ("share", "L_total", "L_equiv"):
        if name in columns:
            title = "Share of the loss" if name == "share" else name
            scale, unit = (100, " %") if name == "share" else (1, "")
            last = {
                "/".join(str(entry[key]) for key in ("stage", "output") if entry.get(key)): scale * entry[name]
                for entry in report.history
                if entry.get(name) is not None
            }
            listed = (f"{one + ' ' if one else ''}{number(value)}{unit}" for one, value in last.items())
            text = f"In the end: {', '.join(listed)}."
            figures.add("time", plots.history, f"{title} over the run", text, name)
    for name, (title, label) in trajectory_plots.COLUMNS.items():
        if name in columns and trajectory_plots.TIME in columns:
            times, values = trajectory_plots.column_of(report, name)
            quantity, _, unit = label.rpartition(", ")
            text = (
                f"{quantity}: {number(values[0])} {unit} at first, {number(values[-1])} {unit} after "
                f"{number(times[-1])} fs; between {number(values.min())} and {number(values.max())}."
            )
            figures.add("time", trajectory_plots.trajectory, f"{title} over the trajectory", text, name)
    if {"angular_change_x_eV_fs", "angular_impulse_x_eV_fs"} <= columns:
        text = "How far the angular momentum moved, and what the net torque of the model makes of it."
        figures.add("time", trajectory_plots.angular_momentum, "Angular momentum over the trajectory", text)
