"""Axes in another order or of another hand: the 48 signed permutations of x, y and z."""

from __future__ import annotations

from itertools import permutations, product
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import experiment, finding

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "order of axes"


@experiment(
    NAME, "conventions", "Does it rotate as it should with its axes in another order, or some reversed?", cost=0
)
def order_of_axes(subject: Subject) -> Findings:
    """Rotate back by ``P g Pᵀ``, for every signed permutation ``P`` but the identity; ``P`` and ``−P`` are the same.

    For a vector this is exact if the model gives ``P v``; irreps and tensors of any rank are served alike, since it is
    the rotation that is written in other axes and not the components.
    """
    for name in subject.broken:
        rep = subject.schema.outputs[name]
        if not rep.event_shape or rep.is_affine or rep.is_whole:
            continue
        raw = subject.raw(name)
        tried = {
            label: rep.rotate_back(raw, matrix @ subject.rotations @ matrix.mT)
            for label, matrix in _signed_permutations().items()
        }
        label, best = subject.best(name, tried)
        sentence = (
            f"{name!r} rotates as it should if its axes are read as ({label}) where (x, y, z) was expected, up to a "
            "sign of the whole"
        )
        advice = (
            "Permute the components, or declare the order that the model uses. Spherical harmonics of degree 1 are "
            "often stored as (y, z, x); a left-handed frame shows as one reversed axis."
        )
        yield finding(NAME, name, best, sentence, advice, exact=True)


def _signed_permutations() -> dict[str, Tensor]:
    """The 23 signed permutations beside the identity that differ by more than a sign of the whole, by their names."""
    found: dict[str, Tensor] = {}
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=2):
            own = (1.0, *signs)
            if order == (0, 1, 2) and signs == (1.0, 1.0):
                continue
            matrix = torch.zeros(3, 3, dtype=torch.float64)
            for row, (axis, sign) in enumerate(zip(order, own, strict=True)):
                matrix[row, axis] = sign
            label = ", ".join(("" if sign > 0 else "−") + "xyz"[axis] for axis, sign in zip(order, own, strict=True))
            found[label] = matrix
    return found
