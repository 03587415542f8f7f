"""What a page says of the losses along a line in the space of the weights: with which power do they grow?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.landscape import plots as curvature_plots
from equiv_probe.landscape.line_table import cells
from equiv_probe.report.formatting import number
from equiv_probe.report.page.headline import Headline
from equiv_probe.report.page.views import Figures, Rows, View

if TYPE_CHECKING:
    from equiv_probe.landscape.growth_exponent import Exponent
    from equiv_probe.landscape.saved_line import SavedLine

DIRECTIONS = {
    "random": "a random direction, every filter by its own length",
    "gradient": "down the gradient of L_total",
    "gradient-mean": "down the gradient of L_mean",
    "gradient-equiv": "down the gradient of L_equiv",
}
BLIND = [
    "other directions: this is one line through a space of as many dimensions as there are weights",
    "other structures and rotations: a power is of those at hand",
    "buffers: statistics of normalisation layers stay those of the model as it is",
]
OVER = {"structures": "over structures", "rotations": "over sets of rotations"}


def view(line: SavedLine, key: str, *, brief: bool = False) -> View:
    """Everything that a page shows of a line; if brief, the answer and the table."""
    heads, rows = cells(line)
    caption = (
        f"The losses at both ends{', ± standard error' if line.over else ''}, and the power p of L(t) − L(0) = b |t|^p "
        "at small t, fitted over the range in the last column."
    )
    figures = Figures(line, key)
    if not brief:
        _add(figures, line)
    where = DIRECTIONS.get(line.direction, line.direction)
    return View(
        line,
        key,
        headline(line),
        template="landscape.html.jinja",
        name=line.name or "Losses along a line",
        source=f"a line in the space of the weights: {where}",
        tables=[Rows("The losses and their powers", caption, heads, rows)],
        figures=figures.by_section,
        protocol={
            "direction": where,
            "t = 1": f"{number(line.length)} of the weights' length",
            "standard errors": OVER.get(line.over, "none: one set of rotations"),
            "seed": line.stored["seed"],
            **line.protocol,
        },
        blind_spots=BLIND,
    )


def headline(line: SavedLine) -> Headline:
    """The answer: how ``L_equiv`` grows, and ``L_mean`` beside it."""
    fit = line.exponent("equiv")
    power = fit.power
    known = math.isfinite(power.value)
    reach = f"for |t| from {number(fit.low)} to {number(fit.high)}"
    return Headline(
        about="L_equiv",
        kind="unknown",
        answer=f"{_grows('L_equiv', fit)}.",
        value=number(power.value, 4),
        unit="is the power of |t| of L_equiv" if known else "no power",
        span=f"{power.low:.5g} to {power.high:.5g}" if math.isfinite(power.low + power.high) else "",
        meaning=f"L(t) − L(0) = b |t|^p {reach}; t = 1 moves the weights by {number(line.length)} of their length."
        if known
        else "L(t) − L(0) is not b |t|^p in any range of t that is above rounding.",
        beside=[
            *(f"{_grows(f'L_{name}', line.exponent(name))}{_of(line.exponent(name))}." for name in ("mean", "total")),
            *_span(line),
        ],
        question="How do the losses change along the line?",
    )


def _grows(name: str, fit: Exponent) -> str:
    power, verb = fit.power, "falls" if fit.coefficient < 0 else "grows"
    if not math.isfinite(power.value):
        return f"{name} has no power that could be told: {fit.why or 'no fit'}"
    if power.low <= 2 <= power.high:
        place = "at the bottom" if verb == "grows" else "on the top"
        return f"{name} {verb} with the square of the distance: along this line the weights lie {place} of it"
    if power.low <= 1 <= power.high:
        return f"{name} changes in proportion to the distance: along this line the weights lie on a slope of it"
    return f"{name} {verb} with a power of the distance that is neither one nor two"


def _of(fit: Exponent) -> str:
    low, high = fit.power.low, fit.power.high
    span = f", {low:.5g} to {high:.5g}" if math.isfinite(low + high) else ""
    return f" (power {number(fit.power.value, 4)}{span})" if math.isfinite(fit.power.value) else ""


def _span(line: SavedLine) -> list[str]:
    """How far each loss goes over the whole line."""
    found = []
    for name, values, _ in line.named():
        at = float(values[line.origin])
        found.append(f"{name}: {number(at)} at t = 0, between {number(values.min())} and {number(values.max())} on it")
    return [f"{'; '.join(found)}."]


def _add(figures: Figures[SavedLine], line: SavedLine) -> None:
    ends = f"From t = {line.t[0]:g} to {line.t[-1]:g}"
    bands = f" Bands are two standard errors, {OVER[line.over]}." if line.over in OVER else ""
    at = (0, line.origin, -1)
    courses = [(name, [number(float(values[k])) for k in at]) for name, values, _ in line.named()]
    listed = "; ".join(f"{name}: {first}, {here} at t = 0, {last}" for name, (first, here, last) in courses)
    figures.add("kind", curvature_plots.profile, "Along the line", f"{ends}. {listed}.{bands}")
    powers = "; ".join(
        f"{name}{_of(fit)}" if math.isfinite(fit.power.value) else f"{name}: {fit.why}"
        for name, _, _ in line.named()
        for fit in [line.exponent(name.removeprefix("L_"))]
    )
    text = f"How far each loss lies from that at t = 0, and the fitted powers of |t|. {powers}."
    if any((abs(values - values[line.origin]) > 0).any() for _, values, _ in line.named()):
        figures.add("kind", curvature_plots.growth, "Away from where it is", text)
