"""Gradients in words: how hard broken symmetry pulls on the weights, and whether it pulls against L_mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.report.formatting import number, span

if TYPE_CHECKING:
    from equiv_probe.results.gradient_numbers import GradientNumbers

HARDLY = 0.1
"""Cosines that are less than this for certain are those of a right angle, or nearly: within 6 degrees of it."""


def sentence(row: GradientNumbers) -> str:
    """What was found for one group of parameters, with what could not be resolved."""
    (mean, most), (low, high), ratio = row.squared_mean_interval, row.squared_equiv_interval, row.ratio
    if not math.isfinite(mean + low):
        if not math.isfinite(ratio):
            return "From one measurement of two blocks of rotations neither gradient can be distinguished from noise."
        return f"{_pulls(ratio, '')} It has no error bar: that takes three blocks of rotations, or two measurements."
    if mean > 0 and low > 0:
        ends = span(*row.ratio_interval)
        return f"{_pulls(ratio, f' ({ends})' if ends else '')} {_angle(row)}".strip()
    if mean > 0:
        most_of_it = f": at most {number(row.largest_ratio, 2)} times as hard as L_mean does" if high > 0 else ""
        return f"A pull of broken symmetry on the weights could not be resolved{most_of_it}."
    if low > 0:
        least = f": at least {number(math.sqrt(low / most), 2)} times as hard" if most > 0 else ""
        return f"Broken symmetry pulls on the weights{least}; the pull of L_mean could not be resolved."
    return "Neither the gradient of L_equiv nor that of L_mean could be resolved: both are less than their noise."


def _pulls(ratio: float, between: str) -> str:
    return (
        f"Broken symmetry pulls on the weights {number(ratio)} times{between} as hard as L_mean does, "
        "‖∇L_equiv‖ / ‖∇L_mean‖."
    )


def _angle(row: GradientNumbers) -> str:
    """Whether a step down one of the losses helps the other."""
    low, high = row.cosine_interval
    if not math.isfinite(low + high):
        return ""
    cosine = f"cosine {number(row.cosine, 2)}, between {number(low, 2)} and {number(high, 2)}"
    if max(abs(low), abs(high)) < HARDLY:
        return f"The two pull at right angles, or nearly ({cosine}): a small step down one hardly changes the other."
    if low > 0:
        return f"The two pull partly the same way ({cosine}): a small step down one lowers the other, too."
    if high < 0:
        return f"The two pull partly against each other ({cosine}): a small step down one raises the other."
    return f"Whether a step down one helps the other could not be resolved ({cosine})."
