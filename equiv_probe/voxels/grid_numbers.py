"""How the two numbers of an audit of grids are shown: roots of squared errors, in the output's own unit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.estimation.verdict import verdict
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from equiv_probe.estimation.decomposition import Decomposition

ABOVE = 5.0
"""An ``L_equiv`` beyond this multiple of the floor is more than interpolation makes.

The floor is that of one trip there and back. Squares, stencils and fields that are cut off at the ball make up to four
times as much of it in models that respect every rotation as far as a grid can.
"""
RIGHT_ANGLES, ALL = "right angles", "all rotations"


def is_root(found: Decomposition) -> bool:
    """Whether a number is shown as its root: of squared error, where that is in the output's unit."""
    return found.loss == "mse"


def shown(found: Decomposition, value: float) -> float:
    """A number as it is shown; an estimate below zero is zero."""
    return math.sqrt(max(value, 0.0)) if is_root(found) else value


def shown_interval(found: Decomposition) -> tuple[float, float]:
    """The 95 % interval of ``L_equiv`` likewise."""
    low, high = found.equiv_interval
    return shown(found, low), shown(found, high)


def label(found: Decomposition) -> str:
    """What is drawn, and in which unit."""
    return "√L_equiv, unit of the output" if is_root(found) else f"L_equiv ({found.loss})"


def beside_floors(found: Decomposition) -> tuple[float, float, float]:
    """The number and the two floors that it is judged beside."""
    return shown(found, found.equiv), shown(found, found.floor), shown(found, found.nondeterminism)


def kind_of(found: Decomposition) -> str:
    """The verdict on rotations by right angles, whose floor is rounding."""
    return verdict(*beside_floors(found), "").kind


def ratio(found: Decomposition) -> float:
    """How many times its floor the number is; NaN without a floor."""
    value, floor, _ = beside_floors(found)
    return value / floor if floor > 0 else math.nan


def value_with_interval(found: Decomposition) -> str:
    """``0.12 (0.1 to 0.14)``."""
    low, high = shown_interval(found)
    span = f" ({number(low)} to {number(high)})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{number(shown(found, found.equiv))}{span}"


def floor_in_words(found: Decomposition) -> str:
    """The floor with its number."""
    return f"the floor of {number(shown(found, found.floor))}"


def is_above_interpolation(found: Decomposition) -> bool:
    """Whether a number over all rotations is more than interpolation alone would make."""
    return found.equiv > ABOVE * found.floor
