"""What a page says of the curvature of the losses: is one of them easier to lower than the other?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.landscape import plots as curvature_plots
from equiv_probe.landscape.conditioning import KINDS
from equiv_probe.landscape.curvature_table import cells, shown
from equiv_probe.report.formatting import number
from equiv_probe.report.page.headline import Headline
from equiv_probe.report.page.views import Figures, Rows, View
from equiv_probe.report.stored_landscape import MATRICES

if TYPE_CHECKING:
    from equiv_probe.estimation.estimates import Estimate
    from equiv_probe.landscape.saved_curvature import SavedCurvature, SavedLossCurvature

FIRST = KINDS[0]
QUESTION = "Is one of the losses easier to lower?"
BLIND = [
    "other weights: curvature is that of one place, and changes in training",
    "other structures: error bars are over rotations and random vectors, not over data",
    "what an optimizer makes of it: condition numbers are about plain gradient descent, and momentum or the scaling of "
    "Adam change which directions are slow",
    "extreme eigenvalues without bias: the noise of finitely many rotations takes them outwards",
]
_CAPTION = (
    "± standard error over random vectors and sets of rotations. A condition number compares the largest magnitude of "
    "an eigenvalue with: the smallest of those that hold 99 or 90 % of all curvature (mass), a mean in which "
    "directions count by their curvature (weighted), a mean or the median of all directions, the smallest above a "
    "ten-thousandth of the largest (cutoff). A dash: infinite, or not measured."
)


def view(found: SavedCurvature, key: str, *, brief: bool = False) -> View:
    """Everything that a page shows of curvatures; if brief, the answer and the table."""
    heads, rows = cells(found)
    losses = dict(found.named())
    size = next(iter(losses.values())).size
    figures = Figures(found, key)
    if not brief:
        _add(figures, losses)
    return View(
        found,
        key,
        headline(found),
        template="landscape.html.jinja",
        name=found.name or "Curvature of the losses",
        source=f"the {MATRICES[found.matrix]} in {size} parameters",
        tables=[Rows("Curvature of each loss", _CAPTION, heads, rows)],
        figures=figures.by_section,
        protocol={
            **found.protocol,
            "products with vectors": found.products,
            "seconds": number(found.seconds),
        },
        notes=list(found.notes),
        blind_spots=BLIND,
    )


def headline(found: SavedCurvature) -> Headline:
    """The answer: the ratio of the condition numbers, under the first definition."""
    losses = dict(found.named())
    beside = [_bends(name, one) for name, one in losses.items()]
    beside += [line for name, one in losses.items() if (line := _down(name, one))]
    if found.mean is None or found.equiv is None:
        name, one = next(iter(losses.items()))
        value = one.condition(FIRST)
        return Headline(
            about=name,
            kind="unknown",
            answer=f"That takes both: here is {' and '.join(losses)} alone.",
            value=number(value.value),
            unit=f"κ({name})",
            span=_span(value),
            meaning=_meaning("κ"),
            beside=beside,
            question=QUESTION,
        )
    ratio = found.ratio(FIRST)
    beside += _others(found)
    if found.mean.sets == 1:
        beside.append("It is of one set of rotations: what others would change is not in the interval.")
    beside.append(
        "Shen et al. (arXiv:2512.02303) report about 1000 for force fields; their abstract does not say of which κ."
    )
    return Headline(
        about="κ",
        kind="unknown",
        answer=_answer(ratio),
        value=number(ratio.value),
        unit="= κ(L_mean) / κ(L_equiv)",
        span=_span(ratio),
        meaning=_meaning("The ratio of the condition numbers κ: how many times worse L_mean is conditioned. κ"),
        beside=beside,
        question=QUESTION,
    )


def _others(found: SavedCurvature) -> list[str]:
    """The ratio under the other definitions, and which of them tell it from one."""
    ratios = {kind: found.ratio(kind) for kind in KINDS}
    listed = [f"{_plain(kind)} {number(one.value)}" for kind, one in ratios.items() if math.isfinite(one.value)]
    above = [_plain(kind) for kind, one in ratios.items() if one.low > 1]
    below = [_plain(kind) for kind, one in ratios.items() if one.high < 1]
    ends = [
        f"{side} one for certain under {', '.join(kinds)}"
        for side, kinds in (("above", above), ("below", below))
        if kinds
    ]
    certain = f" It is {' and '.join(ends)}." if ends else " Under none of them can it be told from one."
    return [f"Under each definition of κ the ratio is: {', '.join(listed)}.{certain}"] if listed else []


def _plain(kind: str) -> str:
    """A definition as prose has it: its cut-off is a part of its name, no number of the report."""
    return kind.replace("1e-4", "10⁻⁴").replace("-", " ", 1)


def _answer(ratio: Estimate) -> str:
    if ratio.low > 1:
        return "Yes, L_equiv: at these weights it is the better conditioned of the two."
    if ratio.high < 1:
        return "Yes, L_mean: at these weights it is the better conditioned of the two."
    return "Not that one could tell: the ratio of their condition numbers may be one."


def _meaning(start: str) -> str:
    return (
        f"{start} is the largest magnitude of an eigenvalue over the smallest of those that hold 99 % of all curvature "
        f"({FIRST}); about a minimum, the number of steps of plain gradient descent grows with it."
    )


def _bends(name: str, one: SavedLossCurvature) -> str:
    return f"{name}: largest eigenvalue {shown(one.largest)}, κ = {shown(one.condition(FIRST))}."


def _down(name: str, one: SavedLossCurvature) -> str:
    """A line about directions in which a loss bends down for certain."""
    low = one.smallest
    if not (low.high < 0 and abs(low.value) > 1e-6 * abs(one.largest.value)):
        return ""
    return f"{name} bends down somewhere, by {shown(low)}: these weights are no minimum of it."


def _span(value: Estimate) -> str:
    known = math.isfinite(value.low + value.high) and value.low < value.high
    return f"{number(value.low)} to {number(value.high)}" if known else ""


def _add(figures: Figures[SavedCurvature], losses: dict[str, SavedLossCurvature]) -> None:
    listed = "; ".join(
        f"{name}: from {shown(one.smallest)} to {shown(one.largest)}, effective rank {shown(one.rank)}"
        for name, one in losses.items()
    )
    size = next(iter(losses.values())).size
    caption = (
        f"How many of the {size} eigenvalues lie where; both axes are logarithmic, the bin in the middle holds those "
        "near zero. Directions far to the right are the steep ones."
    )
    title = "Density of eigenvalues"
    figures.add("kind", curvature_plots.density, title, f"{listed}.", caption=f"{listed}. {caption}")
    both = figures.of.mean is not None and figures.of.equiv is not None
    known = [(kind, figures.of.ratio(kind)) for kind in KINDS] if both else []
    text = "; ".join(f"{_plain(kind)}: {number(one.value)}" for kind, one in known if math.isfinite(one.value))
    caption = "κ(L_mean) / κ(L_equiv) under six definitions, with 95 % intervals; one is the dotted line."
    figures.add("kind", curvature_plots.ratios, "Ratio of condition numbers", f"{text}.", caption=caption)
