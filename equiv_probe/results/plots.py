"""Figures of a report, as Matplotlib axes: how much, on which structures, on which elements, and when.

Every function draws into the axes it is given, or into a new figure of pyplot's, and returns the axes. What the report
does not hold raises an error that says what would measure it. Of what kind: :mod:`equiv_probe.results.angular_plots`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import (
    ALARM,
    CALM,
    INK,
    SERIES,
    axes_or_new,
    below,
    figure,
    legend_above,
    short,
    tidied,
)
from equiv_probe.report.formatting import counted, finite, number
from equiv_probe.results.measured import chosen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from equiv_probe.results.measured import Labelled, Measured
    from equiv_probe.results.structure_table import StructureRecord

TIMES = {"step": "training step", "time": "time", "t": "t", "epoch": "epoch"}
"""Columns of a history that it can be drawn against, with what they are called."""


@figure
def share(having: Sequence[tuple[str, Labelled]], ax: Axes | None = None) -> Axes:
    """``L_equiv`` as a part of ``L_total``, of every quantity that has reference values (or a loss of its own).

    Raises:
        EquivProbeError: no loss was measured.
    """
    if not having:
        raise EquivProbeError(
            "a report without a loss", "reference values, or the loss of a run", "audit(..., reference=...)"
        )
    ax = axes_or_new(ax)
    for row, (_, known) in enumerate(having):
        part = 100 * min(max(known.share, 0.0), 1.0)
        ax.barh(row, part, color=ALARM, height=0.5, label="L_equiv: broken symmetry" if row == 0 else None)
        ax.barh(row, 100 - part, left=part, color=CALM, height=0.5, label="L_mean: the rest" if row == 0 else None)
        low, high = (100 * end for end in known.share_interval)
        if math.isfinite(low):
            ax.errorbar(part, row, xerr=[[max(part - low, 0)], [max(high - part, 0)]], color=INK, capsize=4, lw=1.5)
    ax.set_yticks(range(len(having)), [short(name) for name, _ in having], parse_math=False)
    ax.set_ylim(len(having) - 0.4, -0.6)
    ax.set_xlim(0, 100)
    ax.set_xlabel("part of the loss L_total, %")
    legend_above(ax)
    return tidied(ax, grid="x")


@figure
def structures(
    measured: Sequence[Measured],
    records: Sequence[StructureRecord],
    quantity: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How the root error is spread over structures: for each value, the percentage of structures that lie below.

    Raises:
        EquivProbeError: the report holds no structures, or not this quantity.
    """
    one = chosen(measured, quantity)
    values = np.sort([r for r in roots(records, one.name) if math.isfinite(r)])
    if not len(values):
        raise EquivProbeError("a report without structures", "an audit, or a measurement that names its structures")
    ax = axes_or_new(ax)
    below(ax, values, "structures")
    floor = one.highest_floor
    positive = values[values > 0]
    # On a log axis the floor fits in beside what towers above it.
    if len(positive) and floor > 0 and (positive.max() > 20 * positive.min() or floor > positive.min() / 20):
        ax.set_xscale("log")
        ax.axvline(floor, color=INK, ls=":", label=f"floor {number(floor)}")
    for level, style in ((50, "-"), (95, "--")):
        at = float(np.quantile(values, level / 100))
        name = "median" if level == 50 else "95 %"
        ax.axvline(at, color=CALM, ls=style, lw=1, label=f"{name} {number(at)}")
    ax.set_xlabel(f"√L_equiv of a structure's {short(one.name)}, {short(one.unit)}")
    legend_above(ax, 3)
    return tidied(ax)


@figure
def elements(measured: Sequence[Measured], quantity: str | None = None, ax: Axes | None = None) -> Axes:
    """Root error by chemical element, of a quantity that atoms have.

    Raises:
        EquivProbeError: the quantity has no values by atom.
    """
    one = chosen(measured, quantity, lambda m: bool(m.by_element), "one that atoms have, such as forces")
    ranked = sorted(one.by_element.items(), key=lambda item: -finite(item[1]["rms"]))[:12]
    ax = axes_or_new(ax)
    ax.barh(range(len(ranked)), [finite(values["rms"]) for _, values in ranked], color=ALARM, height=0.6)
    names = [f"{short(element)} ({counted(values['atoms'])})" for element, values in ranked]
    ax.set_yticks(range(len(ranked)), names, parse_math=False)
    ax.invert_yaxis()
    ax.set_xlabel(f"√L_equiv of {short(one.name)}, {short(one.unit)}")
    ax.set_ylabel("element (atoms)")
    return tidied(ax, grid="x")


@figure
def history(
    entries: Sequence[Mapping[str, Any]], value: str = "share", x: str | None = None, ax: Axes | None = None
) -> Axes:
    """An estimate over the course of a run, with its 95 % interval (two standard errors) as a band.

    ``value`` is a column of the history, such as ``"share"`` (drawn in percent) or ``"L_equiv"``, drawn against the
    column ``x``; None takes the first of step, time, t that is there.

    Raises:
        EquivProbeError: the report holds no history, or not these columns.
    """
    columns = [name for entry in entries for name in entry]
    x = x or time_column(entries)
    if not entries or x not in columns or value not in columns:
        found = ", ".join(dict.fromkeys(columns)) or "no history"
        raise EquivProbeError(f"a report with {found}", f"a history with {x or 'step'} and {value}")
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry.get(x) is not None and entry.get(value) is not None:
            name = "/".join(str(entry[key]) for key in ("stage", "output") if entry.get(key))
            lines.setdefault(name, []).append(entry)
    ax = axes_or_new(ax)
    scale = 100 if value == "share" else 1
    for index, (name, line) in enumerate(lines.items()):
        colour = SERIES[index % len(SERIES)]
        at, values = _column(line, x), scale * _column(line, value)
        errors = 2 * scale * np.nan_to_num(_column(line, f"{value}_stderr"))
        few = {"marker": "o", "ms": 4} if len(line) < 40 else {}
        ax.plot(at, values, color=colour, lw=1.8, label=short(name) or None, **few)  # type: ignore[arg-type]
        lowest = 0.0 if bool((values > 0).all()) else -math.inf  # what cannot be negative has no band there
        ax.fill_between(at, np.maximum(values - errors, lowest), values + errors, color=colour, alpha=0.2, lw=0)
    ax.set_xlabel(TIMES.get(x, short(x.replace("_", " "))))
    ax.set_ylabel("share of the loss, %" if value == "share" else short(value))
    if any(lines) and len(lines) < 9:
        ax.legend(loc="best")
    return tidied(ax)


def time_column(entries: Sequence[Mapping[str, Any]]) -> str | None:
    """The column of a history that it can be drawn against: the first of step, time and so on that is there."""
    columns = (name for entry in entries for name in entry)
    return next((name for name in columns if name in TIMES or name.startswith("time")), None)


def roots(records: Sequence[StructureRecord], name: str) -> list[float]:
    """Root errors of a quantity of the structures that have it; NaN where there is none."""
    return [finite(record["quantities"][name].get("rms")) for record in records if name in record["quantities"]]


def _column(entries: Sequence[Mapping[str, Any]], name: str) -> Any:
    return np.array([finite(entry.get(name)) for entry in entries], dtype=float)
