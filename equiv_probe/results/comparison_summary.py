"""A comparison in one sentence: what differs by more than chance after correction for all that was compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from equiv_probe.results.comparison import Comparison
    from equiv_probe.results.contrasts import Contrast, Entry

LEVEL = 0.05
"""Of Holm's p values: below it a difference is resolved."""
_ORDER = ("√L_equiv", "share", "L_total", "L_mean")


def summary(found: Comparison) -> str:
    """What differs, the symmetry error before the losses, and how many differences are resolved.

    Args:
        found: the comparison.
    """
    first = found.names[0]
    if not found.tests:
        return f"No difference from {first} could be tested: there are no error bars on both sides."
    pairs = [(one, entry) for one in found.contrasts for entry in one.entries if entry.change.p_holm < LEVEL]
    if not pairs:
        if found.tests == 1:
            return f"No difference from {first} is resolved, in the only comparison that could be tested."
        return f"No difference from {first} is resolved: of {found.tests} comparisons none survives Holm's correction."
    contrast, entry = min(pairs, key=lambda pair: _ORDER.index(pair[0].number))
    if found.tests == 1:
        rest = "the only difference that could be tested"
    elif len(pairs) == 1:
        rest = f"the only difference of {found.tests} that survives Holm's correction"
    else:
        rest = f"one of {len(pairs)} differences of {found.tests} that survive Holm's correction"
    return f"{entry.report} {_difference(contrast, entry)}, {rest}."


def _difference(contrast: Contrast, entry: Entry) -> str:
    """One difference with its 95 % interval; ratios of roots as those of ``L_equiv`` itself."""
    base, change = contrast.entries[0].report, entry.change
    value, low, high = change.value, change.low, change.high
    of = f"of {contrast.quantity}"
    if not contrast.ratio:
        side, ends = ("lower", (-high, -low)) if value < 0 else ("higher", (low, high))
        span = " to ".join(map(number, ends))
        return f"has a share {of} that is {number(abs(value))} points {side} than that of {base} ({span})"
    name = contrast.number.removeprefix("√")
    if name != contrast.number:
        value, low, high = value**2, low**2, high**2
    if value < 1:
        return f"has {_less(value)} % less {name} {of} than {base} ({_less(high)} to {_less(low)} %)"
    if value < 2:
        more = [number(100 * (x - 1)) for x in (value, low, high)]
        return f"has {more[0]} % more {name} {of} than {base} ({more[1]} to {more[2]} %)"
    return f"has {number(value)} times the {name} {of} that {base} has ({number(low)} to {number(high)} times)"


def _less(ratio: float) -> str:
    """In percent; digits that tell it from everything."""
    text = number(100 * (1 - ratio))
    return text if text != "100" or ratio == 0 else f"{100 * (1 - ratio):.6g}"
