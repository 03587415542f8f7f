"""What a representation is: how one quantity rotates, ``ρ(g)`` forward and ``ρ(g)⁻¹`` back.

To add one, write one file: a frozen dataclass with ``event_shape``, :meth:`Representation.matrix` and ``__str__``, and
a function or constant registered in :mod:`equiv_probe.representations.registry`.

Rotations ``(*B, 3, 3)`` broadcast against the leading axes of the values: one rotation ``(3, 3)`` acts on values of any
leading shape, a batch ``(K, 3, 3)`` acts on ``(K, ...)`` or ``(1, ...)``, copy by copy. Everything is differentiable in
the values and in the rotation. Half-precision values are rotated in float32 and returned in their own dtype.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final

import torch

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


ANY: Final = -1
"""In an event's shape, an axis of any length."""


def block_diagonal(blocks: Sequence[Tensor], rotation: Tensor) -> Tensor:
    """Matrices ``(*B, d_k, d_k)`` along the diagonal of one, ``(*B, Σd_k, Σd_k)``, for rotations ``(*B, 3, 3)``."""
    size = sum(block.shape[-1] for block in blocks)
    whole, start = rotation.new_zeros(*rotation.shape[:-2], size, size), 0
    for block in blocks:
        stop = start + block.shape[-1]
        whole[..., start:stop, start:stop] = block
        start = stop
    return whole


class Representation(ABC):
    """How one tensor rotates. ``event_shape`` is the trailing shape that one element of it occupies."""

    event_shape: tuple[int, ...] = ()
    is_affine: bool = False
    """Whether the centre of rotation matters (points)."""
    is_whole: ClassVar[bool] = False
    """Whether one event is a whole structure (a grid), not an atom's part of it."""

    @property
    def norm_axes(self) -> int:
        """Trailing axes over which a norm-wise loss takes the norm of one event; −4 for the channels of a grid."""
        return len(self.event_shape)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape ends in ``event_shape``."""
        event = self.event_shape
        trailing = tuple(shape)[max(0, len(shape) - len(event)) :]
        return len(trailing) == len(event) and all(e in (ANY, n) for e, n in zip(event, trailing, strict=True))

    @property
    def interpolates(self) -> bool:
        """Whether rotating costs precision beyond rounding (grids, between their voxels)."""
        return False

    def counted(self, values: Tensor) -> Tensor | None:
        """Which elements of a tensor count in losses, broadcastable against it; None if all do."""
        del values
        return None

    def within(self, values: Tensor) -> Tensor:
        """The values, zero where they do not count."""
        return values

    def moves(self, values: Tensor) -> bool:
        """Whether such values rotate: floating ones, and in grids also whole numbers, which go with their voxels."""
        return values.is_floating_point()

    @abstractmethod
    def matrix(self, rotation: Tensor) -> Tensor:
        """``ρ(g)`` on the flattened event, ``(*B, 3, 3) -> (*B, d, d)`` with d the product of ``event_shape``."""

    def places(self, values: Tensor) -> Tensor:
        """Where things are, ``(..., 3)``, of an affine representation's values: centres of rotation are found there."""
        return values

    def translate(self, values: Tensor, shift: Tensor) -> Tensor:
        """The values after places moved by ``shift`` ``(..., 3)``; the same unless they hold places."""
        del shift
        return values

    def rotate(self, values: Tensor, rotation: Tensor, center: Tensor | None = None) -> Tensor:
        """Rotate values by ``ρ(g)``.

        Args:
            values: ``(*B, ..., *event_shape)``, floating.
            rotation: ``(*B, 3, 3)``; leading axes of size one in ``values`` broadcast.
            center: for points, the fixed centre, broadcastable against ``values``; None is the origin.

        Raises:
            EquivProbeError: the values' trailing shape is not ``event_shape``, or an integer tensor was to be rotated.
        """
        return self._apply(values, rotation, center, inverse=False)

    def rotate_back(self, values: Tensor, rotation: Tensor, center: Tensor | None = None) -> Tensor:
        """Rotate values by ``ρ(g)⁻¹``; arguments as for :meth:`rotate`."""
        return self._apply(values, rotation, center, inverse=True)

    def _apply(self, values: Tensor, rotation: Tensor, center: Tensor | None, *, inverse: bool) -> Tensor:
        self.check(values)
        if center is not None and self.is_affine:
            return self._apply(values - center, rotation, None, inverse=inverse) + center
        # float32 at least: bfloat16 rotations would not be orthogonal to anything useful.
        dtype = torch.promote_types(values.dtype, torch.float32)
        matrix = self.matrix(rotation.to(values.device, dtype))
        if inverse:
            matrix = self.inverse(matrix)
        batch, event = self._batch_axes(values, rotation), len(self.event_shape)
        lead, free = values.shape[:batch], values.shape[batch : values.ndim - event]
        size = math.prod(self.event_shape)
        rows = values.to(dtype).reshape(*lead, free.numel(), size)  # one matrix product per rotation, not per atom
        rotated = rows @ matrix.mT
        return rotated.reshape((*rotated.shape[:batch], *free, *self.event_shape)).to(values.dtype)

    def _batch_axes(self, values: Tensor, rotation: Tensor) -> int:
        """How many leading axes the rotations have; raises EquivProbeError where the values lack them."""
        batch = rotation.ndim - 2
        if values.ndim - len(self.event_shape) < batch:
            raise EquivProbeError(
                f"values of shape {tuple(values.shape)} with rotations of shape {tuple(rotation.shape)}",
                "values with the rotations' leading axes",
                "add them: values[None]",
            )
        return batch

    def inverse(self, matrix: Tensor) -> Tensor:
        """``ρ(g)⁻¹`` from ``ρ(g)``: the transpose, since all but Voigt stress are orthogonal."""
        return matrix.mT

    def check(self, values: Tensor) -> None:
        """Raise EquivProbeError unless ``values`` are floating and end in ``event_shape``."""
        if not self.fits(values.shape):
            raise EquivProbeError(
                f"a tensor of shape {tuple(values.shape)} declared as {self}",
                f"trailing axes {self.event_shape}",
                "declare another representation in the schema, such as ep.scalar or ep.fixed",
            )
        if self.event_shape and not values.is_floating_point():
            raise EquivProbeError(f"{values.dtype} values declared as {self}", "floating values", "ep.fixed")
