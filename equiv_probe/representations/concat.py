"""Several quantities side by side in one tensor: node features that begin with the positions, edges with directions.

>>> import torch
>>> mixed = concat(point, 2)  # x, y, z and two features
>>> quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # about z
>>> mixed.rotate(torch.tensor([1.0, 0, 0, 7, 8]), quarter)
tensor([0., 1., 0., 7., 8.])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.cartesian import point, scalar
from equiv_probe.representations.fixed import Fixed
from equiv_probe.representations.interface import Representation, block_diagonal
from equiv_probe.representations.registry import maker

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Concat(Representation):
    """Parts ``(count, representation)`` side by side on the last axis, in order; made by :func:`concat`."""

    parts: tuple[tuple[int, Representation], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "event_shape", (sum(self._sizes),))
        object.__setattr__(self, "is_affine", any(rep.is_affine for _, rep in self.parts))

    @property
    def _sizes(self) -> list[int]:
        """How many columns each part has."""
        return [count * math.prod(rep.event_shape) for count, rep in self.parts]

    def _split(self, values: Tensor) -> list[tuple[Representation, Tensor]]:
        """Each part with its own values, ``(..., count, *event_shape)``."""
        return [
            (rep, part.reshape(*values.shape[:-1], -1, *rep.event_shape))
            for (_, rep), part in zip(self.parts, torch.split(values, self._sizes, -1), strict=True)
        ]

    def matrix(self, rotation: Tensor) -> Tensor:
        """Block by block, ``(*B, d, d)``."""
        return block_diagonal([m for count, rep in self.parts for m in [rep.matrix(rotation)] * count], rotation)

    def places(self, values: Tensor) -> Tensor:
        """The first place among the columns, ``(..., 3)``."""
        return next(part[..., 0, :] for rep, part in self._split(values) if rep.is_affine)

    def translate(self, values: Tensor, shift: Tensor) -> Tensor:
        """See :class:`Representation`: the places move, and the other columns stay."""
        return self._joined([rep.translate(part, shift[..., None, :]) for rep, part in self._split(values)])

    def _apply(self, values: Tensor, rotation: Tensor, center: Tensor | None, *, inverse: bool) -> Tensor:
        # Part by part, so that no bit of a scalar changes and what is not finite stays in its own column.
        self.check(values)
        self._batch_axes(values, rotation)
        about = None if center is None else center[..., None, :]
        return self._joined([rep._apply(part, rotation, about, inverse=inverse) for rep, part in self._split(values)])

    def _joined(self, parts: list[Tensor]) -> Tensor:
        flat = [
            part.flatten(part.ndim - 1 - len(rep.event_shape)) for (_, rep), part in zip(self.parts, parts, strict=True)
        ]
        return torch.cat(flat, -1)

    def __str__(self) -> str:
        def word(count: int, rep: Representation) -> str:
            if rep == scalar:
                return str(count)
            return f"ep.{rep}" if count == 1 else f"({count}, ep.{rep})"

        return f"concat({', '.join(word(count, rep) for count, rep in self.parts)})"


@maker
def concat(*parts: Representation | int | tuple[int, Representation]) -> Concat:
    """Several quantities side by side on a tensor's last axis, such as ``x = torch.cat([pos, z], -1)``.

    Args:
        parts: in order: a representation, how many of it, ``(2, ep.vector)``, or a whole number: so many scalars. A
            tensor of rank two takes nine columns, row by row.

    Returns:
        The representation of the whole, ``(..., d)`` with d the number of columns.

    Raises:
        EquivProbeError: no part, a grid, or a part whose rotation is not linear (quaternions, frames).

    >>> print(concat(point, 6), concat(point, 6).event_shape)
    concat(ep.point, 6) (9,)
    """
    if not parts:
        raise EquivProbeError("concat() of nothing", "parts in order", "ep.concat(ep.point, 6)")
    return Concat(tuple(map(_part, parts)))


def _part(given: Any) -> tuple[int, Representation]:
    count, rep = given if isinstance(given, tuple) and len(given) == 2 else (1, given)
    if isinstance(rep, int) and not isinstance(rep, bool):
        count, rep = count * rep, scalar
    if isinstance(rep, Fixed):
        rep = scalar
    usable = isinstance(rep, Representation) and not rep.is_whole and (rep == point or not rep.is_affine)
    if not (usable and str(rep) != "quaternion" and isinstance(count, int) and count >= 1):
        raise EquivProbeError(
            f"the part {given!r} of ep.concat",
            "a number of scalars, a representation of an atom or edge, or how many of it",
            "ep.concat(ep.point, 6), ep.concat(1, (2, ep.vector))",
        )
    return count, rep
