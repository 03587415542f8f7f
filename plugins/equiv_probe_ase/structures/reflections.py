"""Outputs that change their sign with the handedness of the frame, which only improper rotations show.

A reflected crystal has a left-handed cell: the determinant of its lattice vectors is negative. A model that divides by
that determinant where it means the volume, as CHGNet 0.3.0 does, gives the stress of a reflected crystal the wrong
sign. The crystal is rotated as it should be, and its energy and forces come out right; ASE's own volume is positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

MUCH = 0.1
"""Of their difference, that the means over the two hands may have in common."""


class Hands:
    """Sums of outputs at rotated copies and at reflected ones, rotated back, as they come.

    >>> hands = Hands()
    >>> hands.add(torch.tensor([2.0, -2.0]), torch.stack([torch.eye(3), -torch.eye(3)]))
    >>> hands.are_opposite
    True
    """

    def __init__(self) -> None:
        self._sums: list[Tensor | None] = [None, None]
        self._counts = [0, 0]

    def add(self, values: Tensor, rotations: Tensor) -> None:
        """Take in values ``(K, ...)``, rotated back from copies that were rotated by rotations ``(K, 3, 3)``."""
        proper = torch.linalg.det(rotations) > 0
        for hand, chosen in enumerate((proper, ~proper)):
            if chosen.any():
                before, now = self._sums[hand], values[chosen].sum(0)
                self._sums[hand] = now if before is None else before + now
                self._counts[hand] += int(chosen.sum())

    @property
    def are_opposite(self) -> bool:
        """Whether one hand's mean is the other's with the sign changed; False until both were seen."""
        one, other = (None if s is None else s / n for s, n in zip(self._sums, self._counts, strict=True))
        if one is None or other is None:
            return False
        return bool((one + other).norm() < MUCH * (one - other).norm())


def spread_of_proper(values: Tensor, rotations: Tensor) -> float:
    """Root mean square over proper rotations alone, of values ``(K, ...)``; at least two."""
    own = values[torch.linalg.det(rotations) > 0]
    return float((own - own.mean(0)).square().sum(0).div(max(1, len(own) - 1)).mean().sqrt())


def words_on(name: str) -> str:
    """Why an output might be odd under reflection."""
    found = f"the {name} changes sign where a structure is reflected"
    if name != "stress":
        return found
    return f"{found}, as of a model that divides by the determinant of the cell, negative of a left-handed one"
