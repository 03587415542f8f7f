"""What kind of error it is, over all structures: the angular spectrum, and differences by angle and axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.results.report import without_nan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def angular(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pool one quantity's spectra and differences over structures, weighted as ``L_equiv`` is.

    Structures without them (of improper plans, or resumed from older journals) are left out.

    Returns:
        ``power``, ``rest`` above, their ``stderr``, ``by_angle`` and ``by_axis``, in the quantity's unit squared;
        None in a bin without pairs.
    """
    having = [value for value in values if value.get("angular")]
    if not having:
        return {}
    weight = np.array([value["weight"] for value in having], dtype=float)
    parts = [value["angular"] for value in having]
    power = _floats([[*part["power"], part["rest"]] for part in parts])
    pooled = weight @ power / weight.sum()
    if len(having) > 1:  # delta method over structures, as for L_equiv
        residual = weight[:, None] * (power - pooled)
        count = len(having)
        stderr = np.sqrt(count / (count - 1) * (residual**2).sum(0)) / weight.sum()
    else:
        stderr = _floats([[*parts[0]["power_stderr"], None]])[0]  # over replicates

    def binned(key: str) -> list[float]:
        sums, pairs = (_floats([part[key][place] for part in parts]) for place in (0, 1))
        below = weight @ pairs
        return [a / b if b > 0 else math.nan for a, b in zip((weight @ sums).tolist(), below.tolist(), strict=True)]

    found: dict[str, Any] = without_nan(
        {
            "power": pooled[:-1].tolist(),
            "stderr": stderr[:-1].tolist(),
            "rest": float(pooled[-1]),
            "rest_stderr": float(stderr[-1]),
            "by_angle": binned("by_angle"),
            "by_axis": binned("by_axis"),
        }
    )
    return found


def _floats(rows: Any) -> Any:
    return np.array([[math.nan if x is None else x for x in row] for row in rows], dtype=float)
