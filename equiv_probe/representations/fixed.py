"""What does not rotate and is not a number to rotate either: atomic numbers, masks, times, indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from equiv_probe.representations.interface import Representation
from equiv_probe.representations.registry import constant

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fixed(Representation):
    """Something that does not rotate and is passed on as it is: atomic numbers, masks, times, edge indices."""

    def matrix(self, rotation: Tensor) -> Tensor:
        """The identity, ``(*B, 1, 1)``."""
        return rotation.new_ones(*rotation.shape[:-2], 1, 1)

    def _apply(self, values: Tensor, rotation: Tensor, center: Tensor | None, *, inverse: bool) -> Tensor:
        del rotation, center, inverse
        return values

    def check(self, values: Tensor) -> None:
        """Anything is fixed."""

    def __str__(self) -> str:
        return "fixed"


fixed = constant(
    "fixed",
    Fixed(),
    """Something that does not rotate and is passed on as it is, of any shape and kind: atomic numbers, masks, times,
    edge indices, counts of images, fractional coordinates.
    """,
)
