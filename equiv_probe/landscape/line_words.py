"""Losses along a line in words: with which power of the distance they grow, and what that says of the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.report.document import Column, Headline, Table, Uncertain
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe.landscape.growth_exponent import Exponent
    from equiv_probe.landscape.plots import Course, Values
    from equiv_probe.report.document import Cell

_DIRECTIONS = {
    "random": "a random direction, every filter by its own length",
    "gradient": "down the gradient of L_total",
    "gradient-mean": "down the gradient of L_mean",
    "gradient-equiv": "down the gradient of L_equiv",
}
BLOCKS = {"structures": "over structures", "rotations": "over sets of rotations"}
"""What standard errors are over."""
BLIND_SPOTS = [
    "other directions: this is one line through a space of as many dimensions as there are weights",
    "other structures and rotations: a power is of those at hand",
    "buffers: statistics of normalisation layers stay those of the model as it is",
]


def direction(name: str) -> str:
    """A direction in words."""
    return _DIRECTIONS.get(name, name)


def headline(losses: Sequence[Course], origin: int, exponents: Mapping[str, Exponent], length: float) -> Headline:
    """How ``L_equiv`` grows, and the others beside it."""
    fit = exponents["L_equiv"]
    power = fit.power
    known = math.isfinite(power.value)
    reach = f"for |t| from {number(fit.low)} to {number(fit.high)}"
    others = (f"{_grows(name, exponents[name])}{_power(exponents[name])}." for name in ("L_mean", "L_total"))
    ends = (
        f"{name}: {number(here)} at t = 0, between {number(least)} and {number(most)} on it"
        for name, here, least, most in ((name, x[origin], x.min(), x.max()) for name, x, _ in losses)
    )
    return Headline(
        about="L_equiv",
        answer=f"{_grows('L_equiv', fit)}.",
        value=power.value,
        unit="is the power of |t| of L_equiv" if known else "no power",
        interval=(power.low, power.high),
        meaning=f"L(t) − L(0) = b |t|^p {reach}; t = 1 moves the weights by {number(length)} of their length."
        if known
        else "L(t) − L(0) is not b |t|^p in any range of t that is above rounding.",
        beside=[*others, f"{'; '.join(ends)}."],
        question="How do the losses change along the line?",
        digits=4,
    )


def table(losses: Sequence[Course], at: Sequence[float], exponents: Mapping[str, Exponent], blocks: str) -> Table:
    """The losses at both places of interest, and their powers."""
    columns = [
        Column("", kind="text"), Column("at t = 0"), Column(f"at t = {at[-1]:g}"),
        Column("power of |t|", digits=4), Column("95 % interval", digits=5), Column("for |t| in"),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for name, values, errors in losses:
        fit = exponents[name]
        known = math.isfinite(fit.power.value)
        ends: list[Cell] = [(fit.power.low, fit.power.high), (fit.low, fit.high)] if known else [None, None]
        there = [Uncertain(float(values[k]), float(errors[k])) for k in (at.index(0), -1)]
        rows.append([name, *there, fit.power.value if known else fit.why, *ends])
    caption = (
        f"The losses at 0 and at the end{', ± standard error' if blocks else ''}, and the power p of "
        "L(t) − L(0) = b |t|^p at small t, fitted over the range in the last column."
    )
    return Table("The losses and their powers", columns, rows, caption)


def course(t: Values, losses: Sequence[Course], blocks: str) -> str:
    """What the figure of the losses along the line shows."""
    origin = int((t == 0).argmax())
    shown = ((name, *(number(float(values[k])) for k in (0, origin, -1))) for name, values, _ in losses)
    listed = "; ".join(f"{name}: {first}, {here} at t = 0, {last}" for name, first, here, last in shown)
    bands = f" Bands are two standard errors, {BLOCKS[blocks]}." if blocks in BLOCKS else ""
    return f"From t = {t[0]:g} to {t[-1]:g}. {listed}.{bands}"


def powers(exponents: Mapping[str, Exponent]) -> str:
    """What the figure of the growth shows."""
    listed = "; ".join(f"{name}{_power(fit) or f': {fit.why}'}" for name, fit in exponents.items())
    return f"How far each loss lies from that at t = 0, and the fitted powers of |t|. {listed}."


def _grows(name: str, fit: Exponent) -> str:
    power, verb = fit.power, "falls" if fit.coefficient < 0 else "grows"
    if not math.isfinite(power.value):
        return f"No power was found for {name}: {fit.why or 'no fit'}"
    if power.low <= 2 <= power.high:
        place = "at the bottom" if verb == "grows" else "on the top"
        return f"{name} {verb} with the square of the distance: along this line the weights lie {place} of it"
    if power.low <= 1 <= power.high:
        return f"{name} changes in proportion to the distance: along this line the weights lie on a slope of it"
    return f"{name} {verb} with a power of the distance that is neither one nor two"


def _power(fit: Exponent) -> str:
    low, high = fit.power.low, fit.power.high
    span = f", {low:.5g} to {high:.5g}" if math.isfinite(low + high) else ""
    return f" (power {number(fit.power.value, 4)}{span})" if math.isfinite(fit.power.value) else ""
