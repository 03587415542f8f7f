"""The headline of an audit of a sampler, and its tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from equiv_probe.report.document import PAGE, TERMINAL, WHOLE, Column, Headline, Table, Verdict, columns
from equiv_probe.report.formatting import number
from equiv_probe.results.verdict_words import beside_floor, percent, severity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe.generative.end_points import EndPoints
    from equiv_probe.report.document import Cell

WORST = 12
"""Rows of the table of samples."""
DRAWS = 50
"""Rows of the table of draws."""
ANSWERS = {
    "broken": "Yes: where the noise rotates, the samples do not rotate with it.",
    "above round-off": "Slightly: samples rotate with their noise up to a little more than rounding.",
    "path only": "Not in distribution, as far as the samples tell: paths do not rotate with their noise.",
    "round-off": "No: samples rotate with their noise, down to rounding.",
    "non-deterministic": "It cannot be told: the same noise, run again, varies as much.",
}


def headline(one: EndPoints) -> Headline:
    """The headline for one output."""
    beside = beside_floor(one.rms, one.floor, one.nondeterminism, one.unit)
    if one.scale > 0:
        beside.append(
            f"{percent(one.rms / one.scale)} of how far {one.name} of other noise lie apart, "
            f"{number(one.scale)} {one.unit}."
        )
    if one.law:
        swapped = f", {one.law['swapped']} runs swapped" if one.law["by_run"] else ""
        beside.append(f"In distribution: p = {number(one.law['p_value'])} of {one.law['samples']} samples{swapped}.")
    if math.isfinite(one.spread):
        beside.append(f"About the mean over all frames they scatter by {number(one.spread)} {one.unit}.")
    return Headline(
        ANSWERS.get(one.verdict, "It was measured, with no floor to compare it with."),
        one.rms,
        one.unit,
        one.rms_interval,
        f"How far the {one.name} of rotated noise, rotated back, lie from those of the noise as it was: root "
        "mean square over atoms, rotations and samples.",
        beside,
        severity(one.verdict),
        one.name,
    )


def end_points_table(measured: Sequence[EndPoints]) -> Table:
    """The deviation of every output beside its floor and beside other noise, with the verdict."""
    names = ("output", "deviation", "95 % interval", "unit", "spread", "other noise", "floor", "in one rotation, max")
    rows: list[list[Cell]] = []
    for one in measured:
        judged = Verdict(one.verdict, severity(one.verdict), one.sentence)
        numbers = [one.spread, one.scale, one.highest_floor, one.over_rotations["max"]]
        rows.append([one.name, one.rms, one.rms_interval, one.unit, *numbers, judged])
    title = "End points of rotated noise, rotated back (root mean square over atoms)"
    caption = (
        "End points of rotated noise, rotated back: root mean square over atoms, rotations and samples. Other noise: "
        "how far its end points lie apart."
    )
    return Table(title, columns(*names, "verdict"), rows, caption)


def spread_table(measured: Sequence[EndPoints]) -> Table:
    """Quantiles over samples, and over single rotations of samples."""
    quantiles = ("median", "95 %", "max")
    rows: list[list[Cell]] = []
    for one in measured:
        left, right = (list(map(where.get, ("q50", "q95", "max"))) for where in (one.over_samples, one.over_rotations))
        rows.append([one.name, *left, _count(one.over_samples.get("worst", math.nan)), *right, one.unit])
    names = columns("output", *quantiles, "worst sample", *quantiles, "unit")
    title = "Spread: over samples (left), over single rotations and samples (right)"
    return Table(title, names, rows, on=TERMINAL)


def worst_samples(one: EndPoints) -> Table:
    """The samples that deviate most."""
    heads = columns(Column("sample", kind="text"), "deviation", "in one rotation, max", "floor", "run again")
    ranked = sorted(one.by_sample, key=lambda entry: -_known(entry["rms"]))[:WORST]
    keys = ("rms", "max", "floor", "nondeterminism")
    rows: list[list[Cell]] = [[_count(entry["sample"]), *map(entry.get, keys)] for entry in ranked]
    caption = f"The samples that deviate most in {one.name}, in the unit of the output; samples are counted from 0."
    return Table("The samples that deviate most", heads, rows, caption, on=PAGE)


def draws_table(draws: Sequence[Mapping[str, Any]]) -> Table:
    """Noise beside the initial one, and whether it rotated."""
    heads = columns("call", Column("shape"), "times in a run", Column("rotated"), "where")
    rows: list[list[Cell]] = [
        [one["call"], " × ".join(map(str, one["shape"])), one["times"], "yes" if one["turned"] else "no", one["where"]]
        for one in draws[:DRAWS]
    ]
    caption = (
        "Noise beside the initial one. What rotated, rotated with the frame; what did not was the same in every frame."
    )
    return Table("Drawn on the way", heads, rows, caption, max(0, len(draws) - DRAWS), on=WHOLE)


def _count(value: float) -> int | float:
    return int(value) if math.isfinite(value) else value


def _known(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
