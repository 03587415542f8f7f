"""How each quantity rotates under a rotation: ``ρ(g)`` forward and ``ρ(g)⁻¹`` back.

Rotations ``(*B, 3, 3)`` broadcast against the leading axes of the values: one rotation ``(3, 3)`` acts on values of any
leading shape, a batch ``(K, 3, 3)`` acts on ``(K, ...)`` or ``(1, ...)``, copy by copy. Everything is differentiable in
the values and in the rotation. Half-precision values are rotated in float32 and returned in their own dtype.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


ANY: Final = -1
"""In an event's shape, an axis of any length."""


class Representation(ABC):
    """How one tensor rotates. ``event_shape`` is the trailing shape that one element of it occupies."""

    event_shape: tuple[int, ...] = ()
    is_affine: ClassVar[bool] = False
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
        """``ρ(g)⁻¹`` from ``ρ(g)``: the transpose, since every representation here but Voigt stress is orthogonal."""
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
        power = rotation.new_ones(*batch, 1, 1)
        for _ in range(self.rank):
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
    is_affine: ClassVar[bool] = True

    def __str__(self) -> str:
        return "point"


_VOIGT_AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class Voigt(Representation):
    """A symmetric rank-2 tensor stored as six components, the tensor's own (no factor two on shears): stress.

    Args:
        order: the components in order, such as ASE's ``"xx yy zz yz xz xy"``.
    """

    order: str = "xx yy zz yz xz xy"
    event_shape: tuple[int, ...] = field(default=(6,), init=False, repr=False)

    def __post_init__(self) -> None:
        pairs = self.order.split()
        good = all(re.fullmatch("[xyz]{2}", pair) for pair in pairs)
        if not good or {"".join(sorted(pair)) for pair in pairs} != {"xx", "yy", "zz", "yz", "xz", "xy"}:
            raise EquivProbeError(
                f"Voigt order {self.order!r}",
                "six different components of a symmetric tensor",
                'ep.voigt("xx yy zz yz xz xy")',
            )

    def matrix(self, rotation: Tensor) -> Tensor:
        """``(*B, 6, 6)``: ``s'_p = Σ_q M_pq s_q`` from ``s'_ij = g_ia g_jb s_ab``."""
        i, j, shears = _voigt_constants(self.order, rotation.device, rotation.dtype)
        rows, columns = rotation.index_select(-2, i), rotation.index_select(-2, j)
        direct = rows.index_select(-1, i) * columns.index_select(-1, j)
        crossed = rows.index_select(-1, j) * columns.index_select(-1, i)
        return direct + crossed * shears

    def inverse(self, matrix: Tensor) -> Tensor:
        """``M(g)⁻¹ = D⁻¹ M(g)ᵀ D`` with D = 2 on shears: the form is orthogonal in the Mandel scaling."""
        scale = 1 + _voigt_constants(self.order, matrix.device, matrix.dtype)[2]
        return matrix.mT * scale / scale[:, None]

    def __str__(self) -> str:
        return f'voigt("{self.order}")'


@dataclass(frozen=True)
class Irreps(Representation):
    """A direct sum of irreducible representations of O(3) in e3nn's basis and axis order (needs the ``irreps`` extra).

    Args:
        irreps: as e3nn writes them, such as ``"1x0e + 1x2e"``.
    """

    irreps: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "event_shape", (int(self._e3nn().dim),))

    def _e3nn(self) -> Any:
        try:
            from e3nn import o3
        except ImportError as error:
            raise EquivProbeError("no e3nn", "e3nn for irreps", "pip install 'equiv-probe[irreps]'") from error
        return o3.Irreps(self.irreps)

    def matrix(self, rotation: Tensor) -> Tensor:
        """Wigner matrices in e3nn's basis, ``(*B, d, d)``.

        By ``D^l = Cᵀ (D^{l−1} ⊗ g) C`` with C the Clebsch-Gordan coefficients of ``(l−1) ⊗ 1 → l``: products alone, so
        that nothing waits for the device, unlike the Euler angles of e3nn's own.
        """
        wide = rotation if rotation.device.type == "mps" else rotation.double()
        sign = torch.linalg.det(wide).sign()[..., None, None]
        proper = wide * sign
        powers = [torch.ones_like(sign), proper]
        irreps = self._e3nn()
        for degree in range(2, max((ir.l for _, ir in irreps), default=0) + 1):
            joint = _clebsch_gordan(degree, wide.device, wide.dtype)
            powers.append(torch.einsum("abm,...ac,...bd,cdn->...mn", joint, powers[-1], proper, joint))
        blocks = [powers[ir.l] * (sign if ir.p < 0 else 1) for multiplicity, ir in irreps for _ in range(multiplicity)]
        size = int(irreps.dim)
        matrix = wide.new_zeros(*wide.shape[:-2], size, size)
        start = 0
        for block in blocks:
            stop = start + block.shape[-1]
            matrix[..., start:stop, start:stop] = block
            start = stop
        return matrix.to(rotation.dtype)

    def __str__(self) -> str:
        return f'irreps("{self.irreps}")'


@cache
def _voigt_constants(order: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Axes of the six pairs, and one for shears: kept where they are used, since copying would wait for the device."""
    pairs = order.split()
    with torch.inference_mode(False):  # a tensor made in inference mode could not be saved for a backward pass
        i, j = (torch.tensor([_VOIGT_AXES[pair[k]] for pair in pairs], device=device) for k in (0, 1))
        return i, j, (i != j).to(dtype)


@cache
def _clebsch_gordan(degree: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Of ``(l−1) ⊗ 1 → l``, ``(2l−1, 3, 2l+1)``, orthonormal in the last axis."""
    from e3nn import o3

    with torch.inference_mode(False):
        joint: Tensor = o3.wigner_3j(degree - 1, 1, degree, dtype=torch.float64)
        return (joint * math.sqrt(2 * degree + 1)).to(device, dtype)


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


scalar = CartesianTensor(0)
pseudoscalar = CartesianTensor(0, pseudo=True)
vector = CartesianTensor(1)
axial = CartesianTensor(1, pseudo=True)
point = Point()
fixed = Fixed()


def tensor(rank: int, *, pseudo: bool = False) -> CartesianTensor:
    """A Cartesian tensor of the given rank, ``(..., 3, …, 3)``.

    >>> str(tensor(2)), tensor(2).event_shape
    ('tensor(2)', (3, 3))
    """
    if rank < 0:
        raise EquivProbeError(f"rank {rank}", "a rank of 0 or more")
    return CartesianTensor(rank, pseudo)


def voigt(order: str = "xx yy zz yz xz xy") -> Voigt:
    """A symmetric rank-2 tensor as six components in the stated order (ASE's by default), ``(..., 6)``."""
    return Voigt(order)


def irreps(irreps: str) -> Irreps:
    """e3nn irreps, ``(..., dim)``, such as ``ep.irreps("1x0e+1x2e")``."""
    return Irreps(irreps)
