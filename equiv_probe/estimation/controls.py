"""Controls: what a number must have passed before it is believed. Pure functions from measured numbers to verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from equiv_probe.estimation.verdict import AMPLIFIED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from equiv_probe.estimation.verdict import Rounding

SEES_ROTATION = "sees the rotation"
FLOOR_EXPLAINED = "the precision explains the floor"
ELSEWHERE = "no coordinates come in elsewhere"
TRANSLATION = "does not depend on where the structure is"
BATCH = "does not depend on its batch"
MEMORY = "does not remember"
UNMOVED = "an atom alone, atoms in one place or a uniform grid"
"""What has no orientation."""
OWN_FRAME = "rotations of the batch reach the network"
MANY = "many {} carry the number"
FEW = 10.0
"""Structures or rotations that a number should rest on: with fewer, 95 % intervals cover 88 % or less."""
MOVES = 30.0
"""Multiple of rounding by which an output may change under translation: both are estimated from few evaluations."""


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

    @property
    def failed(self) -> bool:
        """Whether it was run and not passed."""
        return self.passed is False

    @property
    def state(self) -> str:
        """``"FAILED"``, ``"passed"`` or ``"not run"``."""
        return "not run" if self.passed is None else "passed" if self.passed else "FAILED"

    def __str__(self) -> str:
        return self.sentence


def failures_of(controls: Iterable[Control]) -> list[str]:
    """Sentences of the controls that failed: they come before any number."""
    return [control.sentence for control in controls if control.failed]


def failed_first(controls: Iterable[Control]) -> list[Control]:
    """Controls in the order in which they are read: those that failed, that passed, that were not run."""
    return sorted(controls, key=lambda one: (not one.failed, one.passed is None))


def sees_rotation(outputs: Sequence[str], stuck: Sequence[str], tested: int, *, where: str = "structures") -> Control:
    """Whether outputs depend on what was rotated.

    Outputs that are the same to the last bit at all rotated inputs may be rounded, or may never have seen them. Inputs
    that are deformed, which no rotation does, tell which: ``stuck`` names the ``where`` (of ``tested``) at which
    ``outputs`` are the same there too.
    """
    if not tested:
        unknown = "no structure could be deformed: there is no evidence that the model uses its coordinates"
        return Control(SEES_ROTATION, None, unknown)
    if not stuck:
        return Control(SEES_ROTATION, True, "outputs change where the inputs do", 0.0, 0.0)
    of = f"{len(stuck)} of {tested} {where} ({_some(stuck)})" if tested > 1 else f"{_some(stuck)}"
    return Control(
        SEES_ROTATION,
        False,
        f"{_some(outputs)}: these outputs do not depend on the rotated inputs (the same to the last bit when atoms are "
        f"rotated and when they are displaced, on {of}): a cache, or coordinates that come in elsewhere",
        float(len(stuck)),
        0.0,
    )


def nothing_rotates(outputs: Sequence[str]) -> Control:
    """The failed control of outputs that rotation leaves as they are, at inputs that it leaves as they are too."""
    return Control(
        SEES_ROTATION,
        False,
        f"{_some(outputs)}: nothing was rotated, for rotation leaves {UNMOVED} as it is: that these outputs stay the "
        "same says nothing. Measure structures of two atoms or more",
    )


def nothing_elsewhere(name: str, what: str) -> Control:
    """The failed control of a tensor beside a model's inputs that holds coordinates, ``what`` they are."""
    return Control(
        ELSEWHERE,
        False,
        f"{name!r}, which the model holds or names beside its inputs, holds coordinates ({what}) that stay as they are "
        "where the inputs are rotated, and the outputs depend on it: the model sees two orientations at once, and "
        "L_equiv is not its own. Give it to the model as an input that rotates",
    )


def floor_explained(output: str, floor: float, rounding: Rounding, unit: str) -> Control:
    """Whether a floor (root mean square in ``unit``) is rounding as the precision makes it; else it excuses nothing."""
    amplification = rounding.amplification(floor)
    if math.isnan(amplification):
        return Control(FLOOR_EXPLAINED, None, f"{output}: no expected size of rounding to compare the floor with")
    found = (
        f"{output}: inputs that differ by rounding alone change it by {floor:.2g} {unit}, {amplification:.2g} times "
        "what the precision explains"
    )
    return Control(FLOOR_EXPLAINED, rounding.explains(floor), found, amplification, AMPLIFIED)


def does_not_move(output: str, difference: float, rounding: float, unit: str, moved: str) -> Control:
    """Whether an output is the same where the structure was only moved, ``moved`` says how.

    ``difference`` is its root mean square change, and ``rounding`` what rounding or chance makes of that, in ``unit``.
    """
    if math.isnan(difference):
        return Control(TRANSLATION, None, f"{output}: not moved")
    limit = MOVES * rounding
    if difference <= limit:
        return Control(TRANSLATION, True, f"{output}: the same where structures are {moved}", difference, limit)
    size = f"{difference:.2g} {unit}".rstrip()
    return Control(
        TRANSLATION,
        False,
        f"{output}: off by {size} where structures are only {moved}: the model depends on where a structure is, which "
        "shows as a rotation error too",
        difference,
        limit,
    )


def batch_agrees(output: str, structure: str, difference: float, limit: float, unit: str) -> Control:
    """Whether a structure's output is the same alone and beside other structures in one batch.

    ``difference`` is a root mean square, and ``limit`` what another order of sums explains, in ``unit``.
    """
    if difference <= limit:
        return Control(BATCH, True, "outputs of a structure are the same alone and in a batch", difference, limit)
    return Control(
        BATCH,
        False,
        f"{output} of {structure} differs by {difference:.2g} {unit} between a call of its own and a batch with other "
        "structures: the output depends on its neighbours in the batch (padding, batch normalisation in training mode, "
        "pooling over the batch); every structure was evaluated alone",
        difference,
        limit,
    )


def batch_not_asked() -> Control:
    """The control of batches, where the structures that it takes could not be evaluated."""
    return Control(BATCH, None, "the structures that were to be compared alone and in a batch could not be evaluated")


def memory_not_asked(why: str) -> Control:
    """The control of memory, where no structure could be evaluated for it."""
    return Control(MEMORY, None, f"whether a structure gets what a rotated copy of it got: {why}")


def forgets(output: str, structure: str, difference: float, limit: float, unit: str) -> Control:
    """Whether a structure's output is what its neighbours say, though a rotated copy of it was evaluated before it.

    ``difference`` is a root mean square, and ``limit`` what bending and rounding explain, in ``unit``.
    """
    if difference <= limit:
        passed = "a structure that was evaluated after a rotated copy of itself gets what nearby structures get"
        return Control(MEMORY, True, passed, difference, limit)
    return Control(
        MEMORY,
        False,
        f"{output} of {structure}, evaluated after a rotated copy of itself, is off by {difference:.2g} {unit} "
        "from what nearby structures say: the model remembers what it gave for the copy (a cache by distances or "
        "another invariant), which looks invariant and is not",
        difference,
        limit,
    )


def many_carry(output: str, effective: float, count: int, what: str, largest: str = "") -> Control:
    """Whether enough structures, or rotations, carry a number for its interval to be honest.

    ``effective`` is their effective number (:func:`equiv_probe.estimation.heavy_tails.effective_number`); ``largest``
    says more about those that carry it.
    """
    name = MANY.format(what)
    if count < FEW:
        return Control(name, None, f"{output}: too few {what} to tell", effective, FEW)
    enough = effective >= min(FEW, count / 3)
    found = f"{output}: the effective number of {what} is {effective:.1f} of {count}"
    if enough:
        return Control(name, True, found, effective, FEW)
    few = f"{found}: a few {what} carry this number{largest}, so its 95 % interval is too narrow"
    return Control(name, False, few, effective, FEW)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
