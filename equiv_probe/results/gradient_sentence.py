"""Stored gradients in words: how hard broken symmetry pulls on the weights, and whether it pulls against the rest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from equiv_probe.report.formatting import finite, number

if TYPE_CHECKING:
    from collections.abc import Mapping

HARDLY = 0.1
"""Cosines that are less than this for certain are those of a right angle, or nearly: within 6 degrees of it."""


def sentence(row: Mapping[str, Any]) -> str:
    """What was found for one group of parameters, with what could not be told.

    Args:
        row: of a group, as :meth:`equiv_probe.landscape.gradients.Gradients.to_dict` gives it.

    >>> squares = {"squared_mean_interval": (0.9, 1.1), "squared_equiv_interval": (-0.01, 0.04)}
    >>> sentence({"ratio": None, "cosine": None, **squares})
    'Broken symmetry cannot be told to pull on the weights: at most 0.21 times as hard as the rest of the loss.'
    """
    (mean, most), (low, high) = (_ends(row, f"squared_{name}") for name in ("mean", "equiv"))
    ratio = finite(row["ratio"])
    if not math.isfinite(mean + low):
        if not math.isfinite(ratio):
            return "From one measurement of two blocks of rotations neither gradient can be told from its noise."
        return f"{_pulls(ratio, '')} It has no error bar: that takes three blocks of rotations, or two measurements."
    if mean > 0 and low > 0:
        return f"{_pulls(ratio, _span(_ends(row, 'ratio')))} {_angle(row)}".strip()
    if mean > 0:
        most_of_it = f": at most {number(limit(row), 2)} times as hard as the rest of the loss" if high > 0 else ""
        return f"Broken symmetry cannot be told to pull on the weights{most_of_it}."
    if low > 0:
        least = f": at least {number(math.sqrt(low / most), 2)} times as hard" if most > 0 else ""
        return f"Broken symmetry pulls on the weights{least}; the rest of the loss cannot be told to."
    return "Neither broken symmetry nor the rest of the loss can be told to pull on the weights: it is all noise."


def limit(row: Mapping[str, Any]) -> float:
    """The largest ``‖∇L_equiv‖ / ‖∇L_mean‖`` that both 95 % intervals leave room for; NaN if there is none."""
    (mean, _), (_, high) = (_ends(row, f"squared_{name}") for name in ("mean", "equiv"))
    return math.sqrt(max(high, 0.0) / mean) if mean > 0 and math.isfinite(high) else math.nan


def _pulls(ratio: float, span: str) -> str:
    return (
        f"Broken symmetry pulls on the weights {number(ratio)} times{span} as hard as the rest of the loss, "
        "‖∇L_equiv‖ / ‖∇L_mean‖."
    )


def _angle(row: Mapping[str, Any]) -> str:
    """Whether a step down one of the losses helps the other."""
    low, high = _ends(row, "cosine")
    if not math.isfinite(low + high):
        return ""
    cosine = f"cosine {number(finite(row['cosine']), 2)}, between {number(low, 2)} and {number(high, 2)}"
    if max(abs(low), abs(high)) < HARDLY:
        return f"The two pull at right angles, or nearly ({cosine}): a small step down one hardly changes the other."
    if low > 0:
        return f"The two pull partly the same way ({cosine}): a small step down one lowers the other, too."
    if high < 0:
        return f"The two pull partly against each other ({cosine}): a small step down one raises the other."
    return f"Whether a step down one helps the other cannot be told ({cosine})."


def _ends(row: Mapping[str, Any], name: str) -> tuple[float, float]:
    low, high = row.get(f"{name}_interval") or (None, None)
    return finite(low), finite(high)


def _span(ends: tuple[float, float]) -> str:
    low, high = ends
    return f" ({number(low)} to {number(high)})" if math.isfinite(low) and math.isfinite(high) else ""
