"""How a comparison is shown: what differs in a sentence, and a figure of each number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.report.axes import ALARM, CALM, axes_or_new, figure, short, tidied
from equiv_probe.report.document import Headline
from equiv_probe.report.formatting import number
from equiv_probe.results.contrasts import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from equiv_probe.results.contrasts import Contrast, Entry

LEVEL = 0.05
"""Level of Holm's p values below which a difference is resolved."""
MAIN = "forces"
"""The quantity that the sentence is about where its difference is resolved: dynamics and relaxations run on it."""


def headline(names: Sequence[str], contrasts: Sequence[Contrast], tests: int) -> Headline:
    """What differs, and how many differences are resolved: forces before the rest, symmetry before the losses.

    ``tests`` is how many comparisons have a p value.
    """
    pairs = [(one, entry) for one in contrasts for entry in one.entries if entry.change.p_holm < LEVEL]
    if not pairs:
        answer = _unresolved(names[0], tests)
        return Headline(answer, meaning=meaning(tests), question="What differs?")
    contrast, entry = min(pairs, key=lambda pair: _rank(pair[0]))
    if tests == 1:
        rest = "the only difference that could be tested"
    elif len(pairs) == 1:
        rest = f"the only difference of {tests} that survives Holm's correction"
    else:
        rest = f"one of {len(pairs)} differences of {tests} that survive Holm's correction"
    others = _unresolved_main(contrasts, contrast.quantity)
    says, value, unit = _difference(contrast, entry)
    answer = f"{entry.report} {says}, {rest}{others}."
    return Headline(answer, value, unit, meaning=meaning(tests), about=contrast.quantity, question="What differs?")


def meaning(tests: int) -> str:
    """What intervals and p values are, in words."""
    return (
        "Changes are relative to the first report, each with its 95 % interval. p: the probability that chance alone "
        f"makes a difference as large as this one; Holm: p corrected for all {tests} comparisons. Below 5 % there, a "
        "difference is more than the luck of having compared many."
    )


def is_main(quantity: str) -> bool:
    """Whether a quantity is one of forces, of an audit or of a stage of a run."""
    return quantity.rpartition("/")[2] == MAIN


def _rank(contrast: Contrast) -> tuple[bool, bool, int]:
    of_symmetry = contrast.number in {"√L_equiv", "share"}
    return not of_symmetry, not is_main(contrast.quantity), list(NUMBERS).index(contrast.number)


def _unresolved(first: str, tests: int) -> str:
    if not tests:
        return f"No difference from {first} could be tested: there are no error bars on both sides."
    if tests == 1:
        return f"No difference from {first} is resolved, in the only comparison that could be tested."
    return f"No difference from {first} is resolved: of {tests} comparisons none survives Holm's correction."


def _unresolved_main(contrasts: Sequence[Contrast], quantity: str) -> str:
    """That forces were tested and show nothing, where the sentence is about something else."""
    tested = [e.change for one in contrasts if is_main(one.quantity) for e in one.entries if math.isfinite(e.change.p)]
    if is_main(quantity) or not tested or any(one.p_holm < LEVEL for one in tested):
        return ""
    return f"; none of {MAIN} is resolved"


def _difference(contrast: Contrast, entry: Entry) -> tuple[str, float, str]:
    """One difference with its 95 % interval, its number and the unit of that; ratios of roots as of ``L_equiv``."""
    base, change = contrast.entries[0].report, entry.change
    value, low, high = change.value, change.low, change.high
    of = f"of {contrast.quantity}"
    if not contrast.ratio:
        side, ends = ("lower", (-high, -low)) if value < 0 else ("higher", (low, high))
        value, unit, span = abs(value), f"points {side}", " to ".join(map(number, ends))
        return f"has a share {of} that is {number(value)} {unit} than that of {base} ({span})", value, unit
    name = contrast.number.removeprefix("√")
    if name != contrast.number:
        value, low, high = value**2, low**2, high**2
    if value < 1:
        unit, span = f"% less {name} {of}", f"{_less(high)} to {_less(low)}"
        return f"has {_less(value)} {unit} than {base} ({span} %)", 100 * (1 - value), unit
    if value < 2:
        more = [100 * (x - 1) for x in (value, low, high)]
        unit, span = f"% more {name} {of}", " to ".join(map(number, more[1:]))
        return f"has {number(more[0])} {unit} than {base} ({span} %)", more[0], unit
    unit = f"times the {name} {of}"
    return f"has {number(value)} {unit} that {base} has ({number(low)} to {number(high)} times)", value, unit


def _less(ratio: float) -> str:
    """The reduction in percent, with enough digits to differ from 100."""
    text = number(100 * (1 - ratio))
    return text if text != "100" or ratio == 0 else f"{100 * (1 - ratio):.6g}"


@figure
def contrast(found: Contrast, ax: Axes | None = None) -> Axes:
    """One number of several reports with its 95 % intervals, the first at the top."""
    ax = axes_or_new(ax)
    for row, entry in enumerate(found.entries):
        finite = math.isfinite(entry.low) and math.isfinite(entry.high)
        reach = [[max(entry.value - entry.low, 0)], [max(entry.high - entry.value, 0)]] if finite else None
        ax.errorbar(entry.value, row, xerr=reach, fmt="o", color=CALM if row == 0 else ALARM, capsize=4, lw=1.8)
    ax.set_yticks(range(len(found.entries)), [short(entry.report) for entry in found.entries], parse_math=False)
    ax.set_ylim(len(found.entries) - 0.5, -0.5)
    values = [entry.value for entry in found.entries]
    if min(values) > 0 and max(values) > 30 * min(values):
        ax.set_xscale("log")
    else:
        ax.locator_params(axis="x", nbins=5)  # labels of six digits lie side by side
    ax.set_xlabel(f"{found.number} of {short(found.quantity)}" + (f", {short(found.unit)}" if found.unit else ""))
    return tidied(ax, grid="x")
