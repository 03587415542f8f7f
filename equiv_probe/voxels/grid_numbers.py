"""How the two numbers of an audit of grids are shown: roots of squared errors, in the output's own unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Shown:
    """One of the numbers as it is shown, with its floors; an estimate below zero is zero."""

    of: Decomposition

    @property
    def is_root(self) -> bool:
        """Whether roots are shown: of squared error, where that is in the output's unit."""
        return self.of.loss == "mse"

    def __call__(self, value: float) -> float:
        """A number in the unit of ``L_equiv`` as it is shown."""
        return math.sqrt(max(value, 0.0)) if self.is_root else value

    @property
    def value(self) -> float:
        """``L_equiv``."""
        return self(self.of.equiv)

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        low, high = self.of.equiv_interval
        return self(low), self(high)

    @property
    def floors(self) -> tuple[float, float]:
        """What rounding, or interpolation, leaves, and what the same input makes, evaluated again."""
        return self(self.of.floor), self(self.of.nondeterminism)

    @property
    def ratio(self) -> float:
        """How many times its floor the number is; NaN without a floor."""
        return self.value / self.floors[0] if self.floors[0] > 0 else math.nan

    @property
    def reach(self) -> float:
        """Up to where interpolation alone may bring a number over all rotations."""
        return self(ABOVE * self.of.floor)

    @property
    def is_above_interpolation(self) -> bool:
        """Whether a number over all rotations is beyond that."""
        return self.of.equiv > ABOVE * self.of.floor

    @property
    def kind(self) -> str:
        """The verdict on rotations by right angles, whose floor is rounding."""
        return verdict(self.value, *self.floors, "").kind

    @property
    def label(self) -> str:
        """What is drawn, and in which unit."""
        return "√L_equiv, unit of the output" if self.is_root else f"L_equiv ({self.of.loss})"

    def __str__(self) -> str:
        """``0.12 (0.1 to 0.14)``."""
        span = f" ({number(self.interval[0])} to {number(self.interval[1])})"
        return f"{number(self.value)}{span if all(map(math.isfinite, self.interval)) else ''}"

    @property
    def floor_in_words(self) -> str:
        """The floor with its number."""
        return f"the floor of {number(self.floors[0])}"
