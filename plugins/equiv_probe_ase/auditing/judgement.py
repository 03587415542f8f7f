"""The verdict on a quantity, from what was read on one structure or on many."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.estimation.verdict import Rounding, Verdict, verdict, verdict_beside_noise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Values = Mapping[str, Any]

CHANCE = 1e3
"""Outputs that differ between two calls by so many times their last digit's rounding are drawn, not rounded."""


def judged(values: Sequence[Values], equiv: float, stderr: float, relative: float, unit: str) -> Verdict:
    """The verdict on one quantity over structures; ``relative`` is ``√L_equiv`` over the size of the prediction."""
    if varies(values):
        return verdict_beside_noise(
            equiv, stderr, root_mean_square(values, "noise"), _score(values), unit, relative=relative
        )
    rms, floor = math.sqrt(max(equiv, 0.0)), floor_of(values)
    found = verdict(
        rms, floor, root_mean_square(values, "nondeterminism"), unit, relative, rounding=rounding_of(values)
    )
    # Where nothing was deformed, as of an atom alone or of most frames of a trajectory, nothing is known.
    asked = [one for one in values if one.get("deformed") is not None] or values
    if found.kind == "round-off" and all(map(is_zero, asked)):
        return Verdict("unknown", "not measured: zero, also at rotated and at displaced atoms")
    stuck = sum(map(is_stuck, values))
    if found.kind == "round-off" and stuck:
        of = "" if stuck == len(values) else f" of {stuck} of {len(values)} structures"
        return Verdict("unknown", f"not measured: the same to the last bit at rotated and at displaced atoms{of}")
    return found


def is_drawn(values: Values) -> bool:
    """Whether an output differs between two calls at the same atoms by more than rounding."""
    return (values["nondeterminism"] or 0.0) > CHANCE * (values["resolution"] or math.inf)


def varies(values: Iterable[Values]) -> bool:
    """Whether an output varies from call to call, and by how much was measured."""
    return any("pairing" in value and value["noise"] > CHANCE * value["resolution"] for value in values)


def is_stuck(values: Values) -> bool:
    """Whether an output is the same, to the last bit, at rotated and at deformed atoms, and is not zero."""
    return _is_constant(values) and any(values["plain"])


def is_zero(values: Values) -> bool:
    """Whether an output is zero at a structure, at rotated and at deformed atoms."""
    return _is_constant(values) and not any(values["plain"])


def has_no_orientation(record: Mapping[str, Any]) -> bool:
    """Whether all rotated copies of a structure were the same one, as those of an atom alone are."""
    return bool(record.get("orientations") == 1 and record["rotations"] > 1)


def _is_constant(values: Values) -> bool:
    return bool(values.get("unmoved")) and values.get("deformed") == 0.0


def rounding_in(values: Values, *, calls: bool = True) -> float:
    """What is known of one structure to be no symmetry error: rounding, and differences between two ``calls``."""
    keys = ("floor", "resolution", "explained", *(["nondeterminism"] if calls else []))
    return max(values.get(key) or 0.0 for key in keys)


def floor_of(values: Sequence[Values]) -> float:
    """What rounding alone makes; NaN if it was not measured.

    Not less than the resolution of the numbers, and not less than what the precision of the coordinates makes of them:
    round trips of symmetric structures may end where they began.
    """
    known = (root_mean_square(values, key) for key in ("resolution", "explained"))
    return max(root_mean_square(values, "floor"), *(one for one in known if not math.isnan(one)))


def rounding_of(values: Sequence[Values]) -> Rounding:
    """What the floor of a quantity is judged by, over structures."""
    jolted = [value for value in values if value.get("jolted") is not None]
    if not jolted:
        return Rounding(root_mean_square(values, "explained"), math.nan, root_mean_square(values, "deformed"))
    worst = max(jolted, key=lambda value: value["floor"])
    return Rounding(root_mean_square(values, "explained"), worst["jolted"], worst["deformed"])


def root_mean_square(values: Sequence[Values], key: str) -> float:
    """Root mean square over structures, weighted as ``L_equiv`` is; NaN where no structure has it."""
    having = [(value["weight"], value[key]) for value in values if value.get(key) is not None]
    if not having:
        return math.nan
    weights, numbers = np.array(having, dtype=float).T
    return math.sqrt(float(weights @ numbers**2 / weights.sum()))


def _score(values: Sequence[Values]) -> float:
    """Standard normal where the mean over calls is equivariant, over all structures."""
    having = [(value["weight"], *value["pairing"]) for value in values if "pairing" in value]
    weights, covariances, variances = np.array(having, dtype=float).T
    chance = math.sqrt(float(weights**2 @ variances))
    return float(weights @ covariances) / chance if chance > 0 else 0.0
