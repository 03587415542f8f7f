"""One output at copies of an input beside that at the input itself: is what differs more than rounding?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.comparison import root
from equiv_probe.estimation.verdict import AMPLIFIED, BROKEN_RELATIVE, GROWS, ROUND_OFF_FACTOR
from equiv_probe.orbit.seen_rotation import nudge, rotating_inputs
from equiv_probe.report.formatting import number
from equiv_probe.report.record import Part
from equiv_probe.testing.beneath_rounding import Beneath, beneath_rounding
from equiv_probe.testing.copy_words import beside_size, entry, where

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from equiv_probe.orbit.rotated_model import RotatedModel

FEWEST = 3
"""Rotations that can tell what is there whatever rounding makes."""
_LOW = (torch.bfloat16, torch.float16, torch.float32)


class Checked(Part, frozen=True):
    """One output of a model under one group.

    Attributes:
        output: its name.
        group: that the copies of the input are of.
        error: root mean square of how outputs for the copies, brought back, differ from that for the input itself.
        size: root mean square of the output.
        allowed: the largest error that passes; where a tolerance was given, of every number.
        copies: how many.
        wrong: what is wrong with it, in words; empty where it passes.
    """

    output: str
    group: str
    error: float
    size: float
    allowed: float
    copies: int
    wrong: str = ""


@dataclass(frozen=True)
class Copies:
    """Outputs for copies of the input, brought back, ``(C, *S)`` by name, and what each copy is, in words."""

    outputs: dict[str, Tensor]
    words: Sequence[str]
    rotations: Tensor | None = None
    far: float = 0.0
    """How far copies were moved, in units of the structure's size: coordinates lose digits."""


class Comparison:
    """Compares outputs for copies with those for the input as it is.

    Args:
        subject: the model.
        copies: what it says of them.
        floors: outputs at round trips, and at the very same input again.
        group: that the copies are of.
        tolerance: absolute and relative, of every number; None is what rounding explains of the root mean square.
    """

    def __init__(
        self,
        subject: RotatedModel,
        copies: Copies,
        floors: tuple[dict[str, Tensor], dict[str, Tensor]],
        *,
        group: str,
        tolerance: tuple[float, float] | None,
    ) -> None:
        self._subject, self._copies, self._floors = subject, copies, floors
        self._group, self._tolerance = group, tolerance

    def __call__(self, name: str) -> Checked | None:
        """An output; None if there is nothing to compare, as under translation of what is no floating-point number."""
        own, values = self._subject.identity[name], self._copies.outputs.get(name)
        if values is None or not own.numel():
            return None
        own, values, *others = (self._counted(one, name) for one in (own, values, *(one[name] for one in self._floors)))
        if lost := int((~own.isfinite()).sum()):
            wrong = f"{name!r} is not finite: {lost} of {own.numel()} numbers are NaN or infinite, and tell nothing"
            return Checked(name, self._group, math.nan, math.nan, math.nan, len(values), wrong)
        floor, noise = (root((one - own).nan_to_num(math.inf, math.inf)) for one in others)
        size, eps = root(own), self._spacing(name)
        off = (values - own).abs().nan_to_num(math.inf, math.inf)
        strict = 0.0
        if self._tolerance is not None:
            absolute, relative = self._tolerance
            allowed = absolute + relative * size
            measured, beside = float(off.max()), f"the tolerance is {number(allowed)}"
        else:
            most = AMPLIFIED * eps * max(size, 1.0)
            # A floor far above the precision hides an error, unless it is rounding that the model amplifies.
            known = floor if floor <= most or self._amplifies(name, floor, eps) else most
            explained = max(known, eps * size * (1 + self._copies.far))
            allowed, measured = ROUND_OFF_FACTOR * explained, root(off)
            strict = min(allowed * self._given_spacing / eps, BROKEN_RELATIVE * size)
            beside = f"rounding explains {number(explained)}"
            if floor > ROUND_OFF_FACTOR * explained:
                beside += f" (inputs that differ by rounding alone make {number(floor)}: it jumps, or loses digits)"
        wrong = ""
        if noise > max(allowed, AMPLIFIED * eps * size):
            wrong = (
                f"{name!r} is not deterministic: the very same input gives outputs that differ by "
                f"{beside_size(noise, size)}. Call model.eval(), or fix the seed of what the model draws"
            )
        elif measured > max(allowed, noise):
            wrong = self._broken(name, off, beside)
        elif self._tolerance is None and measured > strict and (beneath := self._beneath.get(name)) is not None:
            chance = f"rounding makes {number(beneath.rounding)} of one evaluation"
            real = f"{chance}, and {number(beneath.error)} is there whatever it makes"
            wrong = self._broken(name, off, real) if beneath.is_real else ""
        return Checked(name, self._group, root(off), size, allowed, len(values), wrong)

    def _counted(self, values: Tensor, name: str) -> Tensor:
        """Values of an output without what padding may hold, which is no number at times."""
        held = self._subject.held(self._subject.identity[name], self._subject.schema.outputs[name])
        return values if held is None else torch.where(held, values, values.nan_to_num(0.0, 0.0, 0.0))

    @cached_property
    def _beneath(self) -> dict[str, Beneath]:
        """What is real of errors that rounding would explain; nothing where there are too few rotations to tell."""
        rotations = self._copies.rotations
        return {} if rotations is None or len(rotations) < FEWEST else beneath_rounding(self._subject, rotations)

    @property
    def _given_spacing(self) -> float:
        """Spacing of numbers, relative to their size, in the precision of the weights and of the inputs."""
        inputs = [value.dtype for value in rotating_inputs(self._subject).values()]
        own = [self._subject.precision] if self._subject.precision is not None else []
        return max([torch.finfo(one).eps for one in (*inputs, *own)], default=torch.finfo(torch.float64).eps)

    def _spacing(self, name: str) -> float:
        """The same in the precision in which an output was computed as far as one sees: its own, or its digits'."""
        raw, given = self._subject.unmoved(name).flatten(), self._subject.floating.get(name)
        if not self._subject.schema.outputs[name].event_shape:  # numbers that were rotated back are as they were
            raw = torch.cat([raw, self._copies.outputs[name].flatten()])
        known = [given] if given is not None else []
        if bool((raw != raw.round()).any()):  # whole numbers have few digits in any
            known += [low for low in _LOW if bool((raw == raw.to(low).to(raw)).all())]
        return max([self._given_spacing, *(torch.finfo(one).eps for one in known)])

    def _broken(self, name: str, off: Tensor, beside: str) -> str:
        size = root(self._subject.identity[name])
        return (
            f"{name!r} is not equivariant under {self._group}: it differs by {beside_size(root(off), size)}, where "
            f"{beside}.\n{self._worst(name, off)}"
        )

    def _amplifies(self, name: str, floor: float, eps: float) -> bool:
        """Whether inputs that differ a hundred times more than by rounding change an output more than the floor.

        A smooth output changes a hundred times more; one that jumps does not.
        """
        subject, generator = self._subject, torch.Generator().manual_seed(0)
        copies = {
            other: value.detach() + nudge(value.detach(), generator, 100 * eps).to(value)
            for other, value in rotating_inputs(subject).items()
        }
        changed = subject.at({other: value[None] for other, value in copies.items()}, 1)[name][0]
        return root(subject.schema.outputs[name].within(changed) - subject.identity[name]) > GROWS * floor

    def _worst(self, name: str, off: Tensor) -> str:
        own, values = self._subject.identity[name], self._copies.outputs[name]
        copy, *place = (int(k) for k in torch.unravel_index(off.argmax(), off.shape))
        at = tuple(place[: own.ndim - len(self._subject.schema.outputs[name].event_shape)])
        return (
            f"Worst {where(self._subject, at, own.shape)}{self._copies.words[copy]}: {entry(values[(copy, *at)])} "
            f"instead of {entry(own[at])}, off by {number(float(off.max()))}."
        )
