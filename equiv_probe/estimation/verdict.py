"""Is it more than round-off? A verdict in words, from ``L_equiv`` beside the two floors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["round-off", "non-deterministic", "above round-off", "broken", "path only", "unknown"]

ROUND_OFF_FACTOR = 10.0
"""Root errors up to this multiple of the floor are round-off.

The floor comes from inputs that differ in the last digit; rotated inputs also change the order and the size of every
intermediate result, which in practice costs a small multiple of it.
"""
CHANCE_FACTOR = 3.0
"""Root errors up to this multiple of what repeating the same input makes are chance: both are estimates."""
BROKEN_FACTOR = 100.0
"""Beyond this multiple of the floor no accumulation of rounding explains the error."""
BROKEN_RELATIVE = 1e-3
"""Errors above round-off that are this part of the prediction matter, whatever the floor."""


@dataclass(frozen=True)
class Verdict:
    """What kind of symmetry error it is, and one sentence that says so."""

    kind: Kind
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def verdict(rms: float, floor: float, nondeterminism: float, unit: str, relative: float = math.nan) -> Verdict:
    """Compare the root of ``L_equiv`` with the roots of the floors.

    Args:
        rms: ``√L_equiv`` (an estimate below zero counts as zero), in ``unit``.
        floor: root of the round-off floor, NaN if it was not measured.
        nondeterminism: root of the non-determinism floor, NaN likewise.
        unit: for the sentence.
        relative: ``rms`` over the size of the prediction, where zero means something. A real error that is also a
            sizeable part of the prediction is called broken, however high the floor (ties in a neighbour list that a
            last digit decides raise it).
    """
    if not math.isfinite(rms):
        return Verdict("unknown", "could not be measured")
    if not math.isfinite(floor):
        return Verdict("unknown", f"{rms:.3g} {unit}, with no floor to compare it with")
    repeat = nondeterminism if math.isfinite(nondeterminism) else 0.0
    base = max(floor, repeat)
    ratio = rms / base if base else math.inf
    times = f"{ratio:.0f}" if ratio < 1e4 else f"{ratio:.0e}".replace("e+0", "e").replace("e+", "e")
    # A model that answers anew each time spoils the round trips too: the floor is then the same noise once more, and
    # which of the two estimates is the larger is chance.
    chance = repeat > floor / 3
    if rms <= ROUND_OFF_FACTOR * base and not chance:
        return Verdict("round-off", f"at round-off: {rms:.2g} {unit} beside a floor of {base:.2g} {unit}")
    if rms <= CHANCE_FACTOR * base:
        return Verdict("non-deterministic", f"not above the model's own non-determinism ({repeat:.2g} {unit})")
    what = "model's own non-determinism" if chance else "round-off floor"
    against = f"{times} times the {what} of {base:.2g} {unit}"
    if rms <= BROKEN_FACTOR * base and (rms <= ROUND_OFF_FACTOR * base or not relative > BROKEN_RELATIVE):
        words = "small but real" if rms > ROUND_OFF_FACTOR * base else "more than chance"
        return Verdict("above round-off", f"{words}: {against}")
    return Verdict("broken", f"broken: {against}")
