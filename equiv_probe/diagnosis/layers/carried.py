"""How an activation rotates: a representation on one of its axes, and which axes could carry which."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.concat import concat
from equiv_probe.representations.grids import Grid, grid
from equiv_probe.representations.representation import point, scalar, tensor, vector, voigt

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.representation import Representation

VOIGT = ("xx yy zz yz xz xy", "xx yy zz xy yz xz")
"""Orders of six components that are in use."""
HIGHEST = 3
"""Angular degree up to which layouts are looked for; what a module declares may go further."""
_CYCLED = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
"""x, y, z to y, z, x: the order of m = −1, 0, 1 of real spherical harmonics about z."""


@dataclass(frozen=True)
class Carried:
    """A representation on one axis of an activation.

    Attributes:
        rep: of that axis.
        axis: −1, or −2 for ``(…, 3, F)``; grids take their last axes whatever it is.
        cycled: whether vectors are stored as y, z, x, as real spherical harmonics in the order of m.
        center: of rotation, for points.
        named: how it is called, if not as the representation.
        unordered: whether rows come in another order at each orientation, as edges of some neighbour lists do: only
            the sorted entries of each column, or norms of rows, are compared then.
    """

    rep: Representation
    axis: int = -1
    cycled: bool = False
    center: Any = None
    named: str = ""
    unordered: bool = False

    def __str__(self) -> str:
        where = "" if self.axis == -1 else " on axis −2"
        order = ", but for the order of rows" if self.unordered else ""
        return (self.named or str(self.rep)) + where + (", y z x" if self.cycled else "") + order

    def rotate(self, value: Tensor, rotation: Tensor) -> Tensor:
        """``ρ(g)`` on values ``(*S)`` for one rotation, or on ``(K, *S)`` for K of them."""
        return self._moved(value, rotation, back=False)

    def rotate_back(self, value: Tensor, rotation: Tensor) -> Tensor:
        """``ρ(g)⁻¹`` likewise; of rows without order what can be compared, for one rotation."""
        if self.unordered:
            return (value if self.is_scalar else value.norm(dim=-1)).sort(0).values
        return self._moved(value, rotation, back=True)

    def _moved(self, value: Tensor, rotation: Tensor, *, back: bool) -> Tensor:
        if self.is_scalar:
            return value
        if self.cycled:
            relabel = _CYCLED.to(rotation)
            rotation = relabel @ rotation @ relabel.mT
        move = self.rep.rotate_back if back else self.rep.rotate
        if self.axis == -1:
            return move(value, rotation, None if self.center is None else self.center.to(value))
        return move(value.movedim(self.axis, -1), rotation).movedim(-1, self.axis)

    @property
    def is_scalar(self) -> bool:
        """Whether nothing rotates."""
        return self.rep == scalar

    @property
    def is_grid(self) -> bool:
        """Whether voxels move."""
        return isinstance(self.rep, Grid)


INVARIANT = "invariant"
SCALAR = Carried(scalar, named=INVARIANT)


def simple_candidates(shape: torch.Size, center: Any, *, grids: bool) -> list[Carried]:
    """What an activation could be at first sight of its shape, the simplest first.

    Args:
        shape: of it.
        center: of rotation for points of this shape; None if it has not the shape of points.
        grids: whether the model's inputs are grids.
    """
    found = [SCALAR]
    if grids and is_grid(shape):
        vectors = [Carried(grid((shape[-4] // 3, vector)))] if shape[-4] % 3 == 0 else []
        return [Carried(grid()), *vectors, SCALAR]
    if shape[-1:] == (3,):
        found.append(Carried(vector))
        if center is not None:
            found.append(Carried(point, center=center))
    if len(shape) >= 3 and shape[-2] == 3:
        found.append(Carried(vector, -2))
    if shape[-2:] == (3, 3):
        found.append(Carried(tensor(2)))
    if shape[-1:] == (6,):
        found += [Carried(voigt(order)) for order in VOIGT]
    return found


def is_grid(shape: torch.Size) -> bool:
    """Whether a tensor has channels and three axes of voxels."""
    return len(shape) >= 4 and min(shape[-3:]) > 1


def without_order(shape: torch.Size) -> list[Carried]:
    """What an activation could be if the order of its rows depends on the orientation."""
    if not shape or shape[0] < 2:
        return []
    rows = Carried(vector, unordered=True, named="vector" if shape[-1] == 3 else "rows of equal norm")
    return [Carried(scalar, named=INVARIANT, unordered=True), *([rows] if len(shape) > 1 else [])]


def from_degrees(degrees: list[int], axis: int, *, cycled: bool) -> Carried:
    """Blocks of these angular degrees, one after the other along an axis."""
    runs = [(sum(1 for _ in run), degree) for degree, run in groupby(degrees)]
    words = " + ".join(f"{count} × l={degree}" for count, degree in runs)
    if {degree for _, degree in runs} == {0}:
        return SCALAR
    return Carried(concat(*((count, _block(degree)) for count, degree in runs)), axis, cycled, named=words)


def _block(degree: int) -> Representation:
    """One irreducible block; beyond vectors e3nn is needed."""
    if degree < 2:
        return vector if degree else scalar
    from equiv_probe.representations.irreps import irreps

    return irreps(f"1x{degree}e")


def highest_degree() -> int:
    """Up to which degree layouts can be looked for: beyond vectors e3nn is needed."""
    return HIGHEST if find_spec("e3nn") is not None else 1


def declared(module: Any, shape: torch.Size) -> Carried | None:
    """What a module says of its own output: ``irreps_out`` of e3nn's and those that follow it."""
    irreps = getattr(module, "irreps_out", None)
    if irreps is None or not shape or getattr(irreps, "dim", None) != shape[-1]:
        return None
    from equiv_probe.representations.irreps import irreps as made

    try:  # block by block: one matrix of all would be as large as the activation is wide, squared
        return Carried(concat(*((count, made(f"1x{one}")) for count, one in irreps if count)), named=str(irreps))
    except (ValueError, TypeError, AssertionError, EquivProbeError):
        return None
