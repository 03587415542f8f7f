"""What the channels of a grid are: scalars, vectors and so on, which rotate as the voxels move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.cartesian import CartesianTensor
from equiv_probe.representations.fixed import Fixed
from equiv_probe.representations.interface import ANY, Representation, block_diagonal

if TYPE_CHECKING:
    from torch import Tensor

Field = tuple[int, Representation]
"""How many, and of what."""

SCALAR = CartesianTensor(0)


def field_of(given: Representation | tuple[int, Representation]) -> Field:
    """One field, or several of a kind, as given to :func:`equiv_probe.grid`.

    Raises:
        EquivProbeError: something that is no field, such as a point.
    """
    count, rep = given if isinstance(given, tuple) and len(given) == 2 else (1, given)
    usable = isinstance(rep, Representation) and not (rep.is_affine or rep.is_whole or isinstance(rep, Fixed))
    if not usable or not isinstance(count, int) or count < 1:
        raise EquivProbeError(
            f"the field {given!r} of a grid",
            "a representation that rotates about no centre, such as ep.scalar or ep.vector, or how many of it",
            "ep.grid((5, ep.scalar), (2, ep.vector))",
        )
    return count, rep


@dataclass(frozen=True)
class Channels(Representation):
    """The channels of a grid, rotating where they are, ``(*B, ..., C, D, H, W)``; no fields are scalars, any number."""

    fields: tuple[Field, ...] = ()
    event_shape: ClassVar[tuple[int, ...]] = (ANY, ANY, ANY, ANY)  # type: ignore[misc]
    is_whole: ClassVar[bool] = True

    @property
    def count(self) -> int | None:
        """How many channels there must be; None for any number."""
        return sum(count * math.prod(rep.event_shape) for count, rep in self.fields) if self.fields else None

    @property
    def are_scalars(self) -> bool:
        """Whether none rotates."""
        return all(rep == SCALAR for _, rep in self.fields)

    @property
    def norm_axes(self) -> int:
        """Norm-wise losses take the norm over the channels of a voxel; of scalars, of each channel."""
        return 0 if self.are_scalars else -4

    def matrix(self, rotation: Tensor) -> Tensor:
        """How the channels of one voxel rotate, ``(*B, C, C)``, block by block."""
        fields = self.fields or ((1, SCALAR),)
        return block_diagonal([m for count, rep in fields for m in [rep.matrix(rotation)] * count], rotation)

    def _apply(self, values: Tensor, rotation: Tensor, center: Tensor | None, *, inverse: bool) -> Tensor:
        del center
        if self.are_scalars:
            return values
        batch = self._batch_axes(values, rotation)
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        g = (rotation.mT if inverse else rotation).to(wide)
        matrices = {rep: rep.matrix(g) for _, rep in self.fields}
        sizes = [math.prod(rep.event_shape) for _, rep in self.fields]
        columns = torch.split(wide, [count * size for (count, _), size in zip(self.fields, sizes, strict=True)], -4)
        parts = []
        for (count, rep), size, own in zip(self.fields, sizes, columns, strict=True):
            part = own
            if rep != SCALAR:
                block = own.reshape(*own.shape[:-4], count, size, *own.shape[-3:])
                between = (1,) * (block.ndim - batch - 4)
                # Sums of products instead of a matrix product, which tensor cores would round.
                terms = [
                    column.reshape(*column.shape[:batch], *between, size, 1, 1, 1) * block.narrow(-4, j, 1)
                    for j, column in enumerate(matrices[rep].unbind(-1))
                ]
                part = sum(terms[1:], terms[0]).flatten(-5, -4)
            parts.append(part)
        return torch.cat(parts, -4).to(values.dtype)

    def __str__(self) -> str:
        entries = [f"ep.{rep}" if count == 1 else f"({count}, ep.{rep})" for count, rep in self.fields]
        return ", ".join(entries)
