"""Controls: what a number must have passed before it is believed."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Control:
    """One control of a measurement, passed, failed, or not run.

    Args:
        name: which one, such as ``"sees the rotation"``; the same for every measurement.
        passed: None where it was not run or could not decide; the sentence says why.
        sentence: what was found, for a reader who knows nothing of the control.
        value: what was measured, NaN where there is no single number.
        limit: what ``value`` was compared with.
    """

    name: str
    passed: bool | None
    sentence: str
    value: float = math.nan
    limit: float = math.nan
