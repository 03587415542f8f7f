"""What experiments leave of an error, as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.report.axes import ALARM, CALM, axes_or_new, figure, short, tidied

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from equiv_probe.diagnosis.finding import Finding

MOST = 12
"""Experiments that are shown."""


@figure
def what_is_left(found: Sequence[Finding], ax: Axes | None = None) -> Axes:
    """The part of the squared error that each experiment leaves, those that leave the least at the top."""
    ax = axes_or_new(ax)
    rows = sorted(found, key=lambda one: -one.part)[:MOST]
    left = [100 * min(1.0, max(0.0, 1 - one.part)) for one in rows]
    colours = [CALM if one.state in {"explains", "partly"} else ALARM for one in rows]
    ax.barh(range(len(rows)), left, color=colours, height=0.6)
    ax.set_yticks(range(len(rows)), [short(one.experiment) for one in rows])
    ax.invert_yaxis()
    ax.set_xlim(0, 103)
    ax.set_xlabel("of the squared error left, %")
    return tidied(ax, grid="x")
