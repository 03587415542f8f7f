"""An input that the model takes for something else than it is declared to be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.representations.interface import Representation
from equiv_probe.representations.representation import fixed, vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "an input taken otherwise"


class Inverse(Representation):
    """What rotates by the inverse: row vectors that were multiplied from the wrong side.

    Args:
        of: the representation.
    """

    def __init__(self, of: Representation) -> None:
        self.of, self.event_shape, self.is_affine = of, of.event_shape, of.is_affine

    def matrix(self, rotation: torch.Tensor) -> torch.Tensor:
        """See :class:`Representation`."""
        return self.of.matrix(rotation.mT)

    def __str__(self) -> str:
        return f"inverse of {self.of}"


@experiment(NAME, "conventions", "Is an input that should rotate held fixed, or the other way round?", cost=3 * FEW)
def input_representation(subject: Subject) -> Findings:
    """Rotate each input otherwise: not at all, by the inverse, or as a vector if it was not declared to rotate."""
    tried = list(_alternatives(subject))
    if not tried:
        raise NotApplicable("positions are the only input that could rotate otherwise")
    for given, rep, how in tried:
        schema = replace(subject.schema, inputs={**subject.schema.inputs, given: rep})
        after = subject.again(schema=schema)
        for name in subject.broken:
            best = subject.compare(name, after[name], candidates=len(tried))
            sentence = f"{name!r} rotates as it should if the input {given!r} {how}"
            advice = f"Check how {given!r} is declared in the schema, and how the model uses it."
            yield finding(NAME, name, best, sentence, advice, exact=True)


def _alternatives(subject: Subject) -> Iterator[tuple[str, Representation, str]]:
    """Inputs, how they would rotate, and that in words."""
    known = subject.schema.inputs
    moving = [name for name, rep in known.items() if rep.event_shape and not rep.is_whole and rep != fixed]
    for name in moving:
        rep = known[name]
        if len(moving) > 1 and not rep.is_affine:
            yield name, fixed, "is not rotated: the model takes it for numbers that do not depend on the frame"
            yield name, Inverse(rep), "is rotated by the inverse: R where it should be Rᵀ"
    for name, value in subject.inputs.items():
        is_arrow = isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape[-1:] == (3,)
        if is_arrow and name not in moving:
            yield name, vector, "is rotated with the structure: it holds vectors, and was not declared to"
