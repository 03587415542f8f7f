"""Deviations by the angle of the rotation, as :mod:`equiv_probe.estimation.deviation_by_angle` measures them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    AngleBin = dict[str, float]
else:  # what is read from files is held to this

    class AngleBin(TypedDict):
        """Angles from ``low`` to ``high`` degrees: the deviation there, and how many rotations of a structure."""

        low: float
        high: float
        rms: float
        count: float
