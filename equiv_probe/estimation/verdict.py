"""Is it more than round-off? A verdict in words, from ``L_equiv`` beside the two floors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "round-off",
    "non-deterministic",
    "above round-off",
    "ill-conditioned",
    "discontinuous",
    "broken",
    "path only",
    "unknown",
]

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
AMPLIFIED = 100.0
"""Floors up to this multiple of what the precision explains are rounding: arithmetic adds to that of the inputs."""
GROWS = 10.0
"""Inputs that differ 100 times more than by rounding change a smooth output more than so many times the floor."""
SIGNIFICANT = 3.3
"""Standard errors beyond which noise is no explanation: chance gets there once in two thousand."""
JUMPS = 1e-3
"""Part of the change under a deformation above which a floor is no accumulation of small rounding errors."""


@dataclass(frozen=True)
class Verdict:
    """What kind of equivariance error it is, and one sentence that says so."""

    kind: Kind
    sentence: str

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Rounding:
    """What a floor is to be judged by: root mean squares, in the unit of the output; NaN where one is not known.

    Attributes:
        explained: what rounding to the model's precision can make of the output.
        jolted: deviation at inputs that differ 100 times more than by rounding. It tells a discontinuity, which does
            not grow, from a smooth output that amplifies.
        deformed: deviation at inputs that really differ, such as atoms displaced by hundredths of an Å.
    """

    explained: float = math.nan
    jolted: float = math.nan
    deformed: float = math.nan

    def amplification(self, floor: float) -> float:
        """How many times what the precision explains a floor is; NaN where that is not known."""
        return floor / self.explained if self.explained > 0 else math.nan

    def explains(self, floor: float) -> bool:
        """Whether a floor is one that the precision explains; one that cannot be judged passes."""
        return not self.amplification(floor) > AMPLIFIED


UNKNOWN = Rounding()
"""Nothing is known of the rounding but the floor itself."""


def verdict(
    rms: float,
    floor: float,
    nondeterminism: float,
    unit: str,
    relative: float = math.nan,
    *,
    rounding: Rounding = UNKNOWN,
) -> Verdict:
    """Compare the root of ``L_equiv`` with the roots of the floors.

    Args:
        rms: ``√L_equiv`` (an estimate below zero counts as zero), in ``unit``.
        floor: root of the round-off floor, NaN if it was not measured.
        nondeterminism: root of the non-determinism floor, NaN likewise.
        unit: for the sentence.
        relative: ``rms`` over the size of the prediction, where zero means something. A real error that is also a
            sizeable part of the prediction is called broken, however high the floor (ties in a neighbour list that a
            last digit decides raise it).
        rounding: what the floor is judged by: one far above what the precision explains is no excuse.
    """
    if not (math.isfinite(rms) and math.isfinite(floor)):
        alone = f"{rms:.3g} {unit}, with no floor to compare it with"
        return Verdict("unknown", alone if math.isfinite(rms) else "could not be measured")
    repeat = nondeterminism if math.isfinite(nondeterminism) else 0.0
    base = max(floor, repeat)
    # Outputs that differ from call to call spoil the round trips too: the floor is then the same noise once more, and
    # which of the two estimates is the larger is chance.
    # Last digits that vary from call to call are rounding too, where the precision explains both.
    digits = rounding.explains(floor) and rms <= ROUND_OFF_FACTOR * rounding.explained
    chance = repeat > floor / 3 and not digits
    if rms <= BROKEN_FACTOR * base and not chance and not rounding.explains(floor):
        return _of_an_unexplained_floor(rms, floor, rounding, unit)
    if rms <= ROUND_OFF_FACTOR * base and not chance:
        return Verdict("round-off", f"at round-off: {rms:.2g} {unit} beside a floor of {base:.2g} {unit}")
    if rms <= CHANCE_FACTOR * base:
        return Verdict("non-deterministic", f"not above the model's own non-determinism ({repeat:.2g} {unit})")
    what = "model's own non-determinism" if chance else "round-off floor"
    against = f"{_times(rms / base if base else math.inf)} times the {what} of {base:.2g} {unit}"
    if rms <= BROKEN_FACTOR * base and (rms <= ROUND_OFF_FACTOR * base or not relative > BROKEN_RELATIVE):
        words = "small but real" if rms > ROUND_OFF_FACTOR * base else "more than chance"
        return Verdict("above round-off", f"{words}: {against}")
    return Verdict("broken", f"broken: {against}")


def verdict_beside_noise(
    equiv: float, stderr: float, noise: float, score: float, unit: str, *, relative: float = math.nan
) -> Verdict:
    """The verdict on outputs that vary from call to call: of the model's mean, by a test and not by a factor.

    Args:
        equiv: ``L_equiv`` of the mean over calls, the noise subtracted without bias, in ``unit`` squared.
        stderr: its standard error.
        noise: standard deviation of one call, in ``unit``.
        score: standard normal where the mean is equivariant.
        unit: for the sentence.
        relative: root of ``equiv`` over the size of the prediction.
    """
    rms = math.sqrt(max(equiv, 0.0))
    if not score > SIGNIFICANT:
        most = math.sqrt(max(equiv + 2 * stderr, 0.0)) if math.isfinite(stderr) else math.nan
        most_at = f"; the mean over calls is off by {most:.2g} {unit} at most" if math.isfinite(most) else ""
        return Verdict("non-deterministic", f"not above chance, which is {noise:.2g} {unit} from call to call{most_at}")
    beside = f"{rms:.2g} {unit} of the mean over calls, beside {noise:.2g} {unit} from call to call ({score:.1f} σ)"
    if rms > noise or relative > BROKEN_RELATIVE:
        return Verdict("broken", f"broken: {beside}")
    return Verdict("above round-off", f"small but real: {beside}")


def _of_an_unexplained_floor(rms: float, floor: float, rounding: Rounding, unit: str) -> Verdict:
    """Inputs that differ by rounding alone give outputs that differ by far more."""
    seen = (
        f"{rms:.2g} {unit}, but inputs that differ by rounding alone already change the output by {floor:.2g} {unit}, "
        f"{_times(rounding.amplification(floor))} times what the precision explains"
    )
    if rounding.jolted <= GROWS * floor and not floor < JUMPS * rounding.deformed:
        why = "ties among neighbours, degenerate frames or a cutoff, which a last digit decides"
        return Verdict("discontinuous", f"discontinuous: {seen} ({why})")
    return Verdict("ill-conditioned", f"ill-conditioned: {seen}: the model amplifies it")


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio < 1e4 else f"{ratio:.0e}".replace("e+0", "e").replace("e+", "e")
