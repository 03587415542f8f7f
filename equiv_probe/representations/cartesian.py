"""Scalars, vectors, points and Cartesian tensors of any rank, and their pseudo forms.

>>> import torch
>>> quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # about z
>>> vector.rotate(torch.tensor([1.0, 0, 0]), quarter)
tensor([0., 1., 0.])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.interface import Representation
from equiv_probe.representations.registry import constant, maker

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CartesianTensor(Representation):
    """A tensor of rank r whose every axis rotates as a vector; ``pseudo`` adds the factor ``det g``.

    Rank 0 is a scalar, rank 1 a vector; pseudo rank 0 a pseudoscalar, pseudo rank 1 an axial vector (magnetic moments,
    angular momenta, torques).
    """

    rank: int
    pseudo: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "event_shape", (3,) * self.rank)

    def matrix(self, rotation: Tensor) -> Tensor:
        """Kronecker power of the rotation, ``(*B, 3^r, 3^r)``, times ``det g`` if pseudo."""
        batch = rotation.shape[:-2]
        power = rotation.contiguous() if self.rank else rotation.new_ones(*batch, 1, 1)
        for _ in range(self.rank - 1):
            size = power.shape[-1] * 3
            power = torch.einsum("...ij,...kl->...ikjl", power, rotation).reshape(*batch, size, size)
        if self.pseudo:
            power = power * torch.linalg.det(rotation).sign()[..., None, None]
        return power

    def _apply(self, values: Tensor, rotation: Tensor, center: Tensor | None, *, inverse: bool) -> Tensor:
        if self.rank == 0 and not self.pseudo:
            self.check(values)
            batch = rotation.shape[:-2]
            return values.expand((*batch, *values.shape[len(batch) :]))
        return super()._apply(values, rotation, center, inverse=inverse)

    def __str__(self) -> str:
        names = {(0, False): "scalar", (0, True): "pseudoscalar", (1, False): "vector", (1, True): "axial"}
        return names.get((self.rank, self.pseudo), f"tensor({self.rank}{', pseudo=True' if self.pseudo else ''})")


@dataclass(frozen=True)
class Point(CartesianTensor):
    """A place: ``x ↦ g (x − c) + c``. Positions and denoised coordinates; differences of points are vectors."""

    rank: int = 1
    is_affine = True

    def translate(self, values: Tensor, shift: Tensor) -> Tensor:
        """See :class:`Representation`."""
        return values + shift.to(values)

    def __str__(self) -> str:
        return "point"


scalar = constant(
    "scalar",
    CartesianTensor(0),
    """A number that does not change under rotation: an energy, a charge, a probability, an invariant feature.

    Any shape, ``(...)``; every entry is a scalar of its own.
    """,
)
pseudoscalar = constant(
    "pseudoscalar",
    CartesianTensor(0, pseudo=True),
    """A number that keeps its value under rotation and changes its sign under reflection, such as a chirality index.

    Any shape, ``(...)``.
    """,
)
vector = constant(
    "vector",
    CartesianTensor(1),
    """An arrow, ``(..., 3)``: ``v ↦ g v``. A force, velocity, displacement, dipole or edge vector; the rows of a cell.

    It rotates and is not moved by a translation; a place, which is, is ``ep.point``. Three invariants side by side are
    no vector but ``ep.scalar``. Arrows that keep their sign under inversion (magnetic moments) are ``ep.axial``.
    """,
)
axial = constant(
    "axial",
    CartesianTensor(1, pseudo=True),
    """An axial vector, ``(..., 3)``: ``a ↦ det(g) g a``. A torque, an angular momentum, a magnetic moment.

    Under proper rotations it is a vector; under a reflection it also changes its sign.
    """,
)
point = constant(
    "point",
    Point(),
    """A place, ``(..., 3)``: ``x ↦ g (x − c) + c``. Positions and denoised coordinates.

    It rotates about the centre ``c`` of its structure, and moves with a translation. The difference of two places is an
    ``ep.vector``. Fractional coordinates are no places: they are ``ep.fixed``, and the cell rotates.
    """,
)


@maker
def tensor(rank: int = 2, *, pseudo: bool = False) -> CartesianTensor:
    """A Cartesian tensor of the given rank, ``(..., 3, …, 3)``, every axis of which rotates as a vector.

    Args:
        rank: 2 for stress, polarisability or a quadrupole; 0 and 1 are ``ep.scalar`` and ``ep.vector``.
        pseudo: whether it also changes its sign under reflection.

    Raises:
        EquivProbeError: a negative rank.

    >>> str(tensor(2)), tensor(2).event_shape
    ('tensor(2)', (3, 3))
    """
    if rank < 0:
        raise EquivProbeError(f"rank {rank}", "a rank of 0 or more")
    return CartesianTensor(rank, pseudo)
