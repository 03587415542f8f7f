"""Functions of the weights that add up to a decomposed loss, each of some structures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.orbit_parts import BatchPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from equiv_probe.landscape.orbit_loss import OrbitLoss
    from equiv_probe.landscape.orbit_parts import Decomposed, Part


class Piece:
    """The share of some structures in the three losses; called, it returns them."""

    def __init__(self, loss: OrbitLoss, part: Part, start: int, stop: int) -> None:
        self._loss, self._part, self._range = loss, part, (start, stop)

    def __call__(self) -> Decomposed:
        """The three losses now, 0-d."""
        return self._loss._part(self._part, *self._range)

    def outputs(self) -> list[Tensor]:
        """The pulled-back predictions that the losses are functions of.

        Raises:
            EquivProbeError: a user's step, whose loss is not known.
        """
        if not isinstance(self._part, BatchPart):
            raise EquivProbeError("a user's own step", "a loss of known outputs: OrbitLoss(model, inputs, targets)")
        return list(self._part.outputs(*self._range, self._loss._chosen(self._part)).values())

    def of_outputs(self, outputs: Sequence[Tensor]) -> Decomposed:
        """The three losses if the predictions were these."""
        assert isinstance(self._part, BatchPart)
        named = dict(zip(self._part.live.known_schema.outputs, outputs, strict=True))
        sums = self._part.sums_of(named, *self._range, self._loss._chosen(self._part))
        return self._loss._summed(self._part, sums)
