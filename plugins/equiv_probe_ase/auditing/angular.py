"""What kind of error it is, over all structures: the angular spectrum, and differences by angle and axis."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.results.report import without_nan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

BINNED = ("by_angle", "by_axis")


class Kinds:
    """One quantity's spectra and differences, pooled over structures as they come, weighted as ``L_equiv`` is.

    Structures without them (of improper plans) are left out.
    """

    def __init__(self) -> None:
        self._weights = array("d")
        self._power = array("d")
        self._stderr: list[float] = []
        self._bins: dict[str, Any] = dict.fromkeys(BINNED, 0.0)

    def add(self, values: Mapping[str, Any]) -> None:
        """Take in what was read on one structure."""
        part = values.get("angular")
        if not part:
            return
        weight = float(values["weight"])
        self._weights.append(weight)
        self._power.extend(_floats([*part["power"], part["rest"]]))
        if len(self._weights) == 1:
            self._stderr = [*_floats(part["power_stderr"]), math.nan]  # over replicates, of the only structure
        for key in BINNED:  # sums over pairs of rotations, and their number
            self._bins[key] = self._bins[key] + weight * np.array([_floats(row) for row in part[key]])

    def pooled(self) -> dict[str, Any]:
        """``power``, ``rest`` above, their ``stderr``, ``by_angle`` and ``by_axis``, in the quantity's unit squared.

        None in a bin without pairs; empty where no structure has any.
        """
        if not self._weights:
            return {}
        weight, count = np.array(self._weights), len(self._weights)
        power = np.array(self._power).reshape(count, -1)
        pooled, stderr = weight @ power / weight.sum(), np.array(self._stderr)
        if count > 1:  # delta method over structures, as for L_equiv
            residual = weight[:, None] * (power - pooled)
            stderr = np.sqrt(count / (count - 1) * (residual**2).sum(0)) / weight.sum()
        found: dict[str, Any] = without_nan(
            {
                "power": pooled[:-1].tolist(),
                "stderr": stderr[:-1].tolist(),
                "rest": float(pooled[-1]),
                "rest_stderr": float(stderr[-1]),
                **{key: _ratios(*self._bins[key]) for key in BINNED},
            }
        )
        return found


def _ratios(sums: NDArray[np.float64], pairs: NDArray[np.float64]) -> list[float]:
    return [a / b if b > 0 else math.nan for a, b in zip(sums.tolist(), pairs.tolist(), strict=True)]


def _floats(row: Any) -> list[float]:
    return [math.nan if x is None else float(x) for x in row]
