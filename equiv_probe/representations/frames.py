"""Rigid frames ``(R, t)``, the residues and fragments of generative models: how orientations and places rotate.

A frame maps local to global coordinates, ``x = R u + t``. A rotation ``g`` of the molecule rotates its orientation from
the left, ``R ↦ g R``, and its place as a point. An improper ``g`` reflects what the frame was built from: with axes one
and two from differences of points and the third their cross product (Gram-Schmidt, as in AlphaFold 2, Jumper et al.,
Nature 596 (2021) 583, supplement 1.8.1), the orientation stays proper, ``R ↦ g R diag(1, 1, det g)``.

A mean over rotations is taken entry by entry, so that the twirl of orientations minimises the squared (chordal)
distance, which is convex; it is not itself an orientation. Geodesic losses are not convex, and ``L_equiv ≥ 0`` is not
certain for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.interface import Representation, block_diagonal
from equiv_probe.representations.registry import constant, maker

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Orientation(Representation):
    """Rotation matrices ``(..., 3, 3)`` from local to global axes: columns rotate, ``R ↦ g R``; rows are local."""

    event_shape = (3, 3)

    def matrix(self, rotation: Tensor) -> Tensor:
        """``g ⊗ diag(1, 1, det g)`` on the nine entries, row by row, ``(*B, 9, 9)``."""
        # Of the local axes only the third, a cross product, notices a reflection.
        local = rotation.new_zeros(rotation.shape)
        local[..., 0, 0] = local[..., 1, 1] = 1.0
        local[..., 2, 2] = _parity(rotation)
        both = torch.einsum("...ij,...kl->...ikjl", rotation, local)
        return both.reshape(*rotation.shape[:-2], 9, 9)

    def __str__(self) -> str:
        return "orientation"


@dataclass(frozen=True)
class Quaternion(Representation):
    """Orientations as unit quaternions ``(..., 4)``, w first: ``q ↦ q_g q``, given with w ≥ 0.

    ``q`` and ``−q`` are the same orientation, and no choice between them is continuous: what was rotated has w ≥ 0, as
    most codes make it. A network that is fed quaternions of both signs sees that choice.
    """

    event_shape = (4,)

    def matrix(self, rotation: Tensor) -> Tensor:
        """Left multiplication by the quaternion of g, ``(*B, 4, 4)``; an improper g also rotates about the local z."""
        parity = _parity(rotation)
        matrix = _left(quaternions(rotation * parity[..., None, None]))
        # g R diag(1, 1, −1) = (−g) R diag(−1, −1, 1): a rotation by 180° about the local z axis, from the right.
        by_180 = _right(torch.eye(4, dtype=rotation.dtype, device=rotation.device)[3])
        return torch.where((parity < 0)[..., None, None], matrix @ by_180, matrix)

    def _apply(self, values: Tensor, rotation: Tensor, center: Tensor | None, *, inverse: bool) -> Tensor:
        return _upper(super()._apply(values, rotation, center, inverse=inverse))

    def __str__(self) -> str:
        return "quaternion"


Form = Literal["matrix", "quaternion"]
_PARTS: dict[str, tuple[tuple[int, ...], Representation]] = {
    "matrix": ((4, 4), Orientation()),
    "quaternion": ((7,), Quaternion()),
}


@dataclass(frozen=True)
class Frame(Representation):
    """Orientation and place in one tensor: ``R ↦ g R``, ``t ↦ g (t − c) + c``.

    Args:
        form: ``"matrix"``, homogeneous ``(..., 4, 4)``, or ``"quaternion"``, ``(..., 7)`` with the unit quaternion (w
            first) before the place.
    """

    form: Form = "matrix"
    is_affine = True

    def __post_init__(self) -> None:
        if self.form not in _PARTS:
            raise EquivProbeError(f"form {self.form!r} of a frame", '"matrix" (4, 4) or "quaternion" (7,)')
        object.__setattr__(self, "event_shape", _PARTS[self.form][0])

    def matrix(self, rotation: Tensor) -> Tensor:
        """``ρ(g)`` about the origin on the flattened frame; ``(*B, 16, 16)`` or ``(*B, 7, 7)``, sign not chosen."""
        first = _PARTS[self.form][1].matrix(rotation)
        if self.form == "quaternion":
            return block_diagonal([first, rotation], rotation)
        batch = rotation.shape[:-2]
        whole = torch.eye(16, dtype=rotation.dtype, device=rotation.device).expand(*batch, 16, 16).clone()
        blocks = whole.view(*batch, 4, 4, 4, 4)
        blocks[..., :3, :3, :3, :3] = first.view(*batch, 3, 3, 3, 3)
        blocks[..., :3, 3, :3, 3] = rotation
        return whole

    def places(self, values: Tensor) -> Tensor:
        """The places ``t``, ``(..., 3)``."""
        return values[..., 4:] if self.form == "quaternion" else values[..., :3, 3]

    def _apply(self, values: Tensor, rotation: Tensor, center: Tensor | None, *, inverse: bool) -> Tensor:
        self.check(values)
        shift = self._at(values, center, -1.0)
        rotated = super()._apply(shift, rotation, None, inverse=inverse)
        if self.form == "quaternion":
            rotated = torch.cat([_upper(rotated[..., :4]), rotated[..., 4:]], -1)
        return self._at(rotated, center, 1.0)

    def translate(self, values: Tensor, shift: Tensor) -> Tensor:
        """See :class:`Representation`."""
        return self._at(values, shift.to(values), 1.0)

    def _at(self, values: Tensor, center: Tensor | None, sign: float) -> Tensor:
        """Frames with their places shifted by ± the centre."""
        if center is None:
            return values
        places = self.places(values) + sign * center
        if self.form == "quaternion":
            return torch.cat([values[..., :4].expand(*places.shape[:-1], 4), places], -1)
        upper = torch.cat([values[..., :3, :3].expand(*places.shape[:-1], 3, 3), places[..., None]], -1)
        return torch.cat([upper, values[..., 3:, :].expand(*places.shape[:-1], 1, 4)], -2)

    def __str__(self) -> str:
        return f'frame("{self.form}")'


def quaternions(rotations: Tensor) -> Tensor:
    """Unit quaternions of proper rotations, ``(..., 3, 3) -> (..., 4)``, w first; the sign is not chosen.

    From the largest of the four candidates, so that nothing cancels (Shepperd, J. Guidance and Control 1 (1978) 223).
    """
    m = rotations
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    # 4 q_k q: each row is the quaternion times four of its own k-th entry.
    rows = (
        (1 + xx + yy + zz, wx, wy, wz),
        (wx, 1 + xx - yy - zz, xy, xz),
        (wy, xy, 1 - xx + yy - zz, yz),
        (wz, xz, yz, 1 - xx - yy + zz),
    )
    candidates = torch.stack([torch.stack(row, -1) for row in rows], -2)
    largest = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = candidates.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    return torch.nn.functional.normalize(chosen, dim=-1)


def _upper(q: Tensor) -> Tensor:
    """The same orientations with w ≥ 0."""
    return torch.where(q[..., :1] < 0, -q, q)


def _left(q: Tensor) -> Tensor:
    """``p ↦ q p`` as a matrix, ``(..., 4) -> (..., 4, 4)``."""
    w, x, y, z = q.unbind(-1)
    rows = ((w, -x, -y, -z), (x, w, -z, y), (y, z, w, -x), (z, -y, x, w))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _right(q: Tensor) -> Tensor:
    """``p ↦ p q`` as a matrix, ``(..., 4) -> (..., 4, 4)``."""
    w, x, y, z = q.unbind(-1)
    rows = ((w, -x, -y, -z), (x, w, z, -y), (y, -z, w, x), (z, y, -x, w))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _parity(rotation: Tensor) -> Tensor:
    """``det g`` as ±1, ``(...)``."""
    wide = rotation if rotation.dtype in {torch.float32, torch.float64} else rotation.float()
    sign: Tensor = torch.linalg.det(wide).sign()
    return sign.to(rotation.dtype)


orientation = constant(
    "orientation",
    Orientation(),
    """Rotation matrices from local to global axes, ``(..., 3, 3)``: ``R ↦ g R``. Frames of residues and fragments.

    Only the columns rotate; a Cartesian tensor, whose rows rotate too, is ``ep.tensor(2)``, and three vectors as rows
    (a cell) are ``ep.vector``.
    """,
)
quaternion = constant(
    "quaternion",
    Quaternion(),
    """Orientations as unit quaternions, ``(..., 4)``, w first: ``q ↦ q_g q``, given with w ≥ 0.""",
)


@maker
def frame(form: Form = "matrix") -> Frame:
    """Rigid frames in one tensor: orientation and place; in two tensors they are ``ep.orientation`` and ``ep.point``.

    Args:
        form: ``"matrix"``, homogeneous ``(..., 4, 4)``, or ``"quaternion"``, ``(..., 7)`` with the unit quaternion (w
            first) before the place.

    Raises:
        EquivProbeError: another form.

    >>> str(frame()), frame("quaternion").event_shape
    ('frame("matrix")', (7,))
    """
    return Frame(form)
