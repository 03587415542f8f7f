"""Grids rotated by the rotations of the cube, which move voxels onto voxels: nothing is interpolated, no bit changes.

``values`` are ``(K, M, D, H, W)`` here, and ``signed`` ``(K, 3, 3)`` signed permutations of the three array axes: an
array index ``u'`` about the centre of the rotated grid is ``signed`` times that of the voxel it came from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Function

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

NEAR = 1e-6
"""A matrix this close to whole numbers, element by element, is meant to be of whole numbers."""

USE_BOX = (
    'ep.RotationPlan("box"), the rotations by 180°, which fit any box, or "box-z" where the sides across z are equal; '
    'or ep.RotationPlan("cube") with one copy at a time (twirl without stacked=True)'
)


def at_hand(value: Tensor) -> bool:
    """Whether a tensor's numbers can be read without waiting for a device."""
    return value.device.type == "cpu"


def rotate_voxels(values: Tensor, rotations: Tensor, *, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Tensor:
    """Move every voxel to where its rotation takes it.

    Args:
        values: ``(K, M, D, H, W)``.
        rotations: ``(K, 3, 3)`` in the array's own axes. Where reading them would wait for a device they are not
            checked: a rotation that does not fit then leaves a NaN in the middle of its copy.
        spacing: of the voxels along D, H, W: axes of equal spacing may change places.

    Returns:
        ``(K, M, *S)``; S is another order of D, H, W where all rotations exchange unequal axes in the same way.

    Raises:
        EquivProbeError: a rotation that is none of the cube's, that exchanges axes of different spacing, or copies
            that would have different shapes.
    """
    shape = tuple(values.shape[-3:])
    whole = rotations.round()
    stray = ((rotations - whole).abs() > NEAR).flatten(1).any(1) | (whole.abs().sum(2) != 1).any(1)
    signed = whole.long().to(values.device, non_blocking=True)
    if at_hand(rotations):
        rotated_shape = _require_fit(whole, stray, shape, spacing)
        return _rotated(values, signed, rotated_shape, None)
    same = [[shape[a] == shape[b] and _equal(spacing[a], spacing[b]) for b in range(3)] for a in range(3)]
    if not all(map(all, same)):
        kept = torch.stack([whole[:, a, b] * same[a][b] for a in range(3) for b in range(3)], 1).reshape(-1, 3, 3)
        misfit = (kept != whole).flatten(1).any(1)
        stray = stray | misfit
        signed = torch.where(misfit[:, None, None], torch.diag_embed(torch.ones_like(whole[:, 0])), kept).long()
    return _rotated(values, signed, shape, stray)


def _equal(first: float, second: float) -> bool:
    return abs(first - second) <= 1e-9 * max(first, second)


def _require_fit(whole: Tensor, stray: Tensor, shape: tuple[int, ...], spacing: Sequence[float]) -> tuple[int, ...]:
    """The shape of the rotated grids."""
    if bool(stray.any()):
        raise EquivProbeError(
            "a rotation that does not take voxels to voxels, for a grid without interpolation",
            "one of the 24 rotations of the cube (48 with improper ones)",
            'ep.RotationPlan("cube"), or declare ep.grid(interpolation="linear")',
        )
    orders = {tuple(row) for row in whole.abs().argmax(2).tolist()}
    if not all(_equal(spacing[a], spacing[b]) for order in orders for a, b in enumerate(order)):
        raise EquivProbeError(
            "a rotation by 90° of a grid whose spacing differs from axis to axis",
            "rotations by 180°, which keep every axis",
            'ep.RotationPlan("box"), or ep.grid(..., interpolation="linear")',
        )
    shapes = {tuple(shape[axis] for axis in order) for order in orders}
    if len(shapes) > 1:
        raise EquivProbeError(
            f"copies of a {'×'.join(map(str, shape))} box that would have different shapes once rotated",
            "rotations that keep the shape, for copies or structures that share an array",
            USE_BOX,
        )
    return shapes.pop() if shapes else shape


def _rotated(values: Tensor, signed: Tensor, shape: tuple[int, ...], stray: Tensor | None) -> Tensor:
    found: Tensor = _Rotate.apply(values, signed, shape, stray)  # type: ignore[no-untyped-call]
    return found


class _Rotate(Function):
    """A permutation, whose derivative is the inverse permutation: a gather both ways."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, signed: Tensor, shape: tuple[int, ...], stray: Tensor | None) -> Tensor:
        ctx.save_for_backward(signed)
        ctx.shape = tuple(values.shape[-3:])
        index = _sources(signed, tuple(values.shape[-3:]), shape)
        if stray is not None:
            index = index.clamp(0, values[0, 0].numel() - 1)
        found = values.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, values.shape[1], -1))
        found = found.reshape(*values.shape[:2], *shape)
        if stray is not None and found.is_floating_point():
            middle = found[:, :, shape[0] // 2, shape[1] // 2, shape[2] // 2]
            middle += torch.where(stray.to(found.device), torch.nan, 0.0).to(found)[:, None]
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (signed,) = ctx.saved_tensors
        return _rotated(grads[0], signed.mT, ctx.shape, None), None, None, None


def _sources(signed: Tensor, source: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """For every voxel of the rotated grid the one it came from, flattened: ``(K, *shape)``.

    Along the source's axis b it is ``Σ_a turns_ab i_a``, counted from the other end if that is a minus.
    """
    strides = (source[1] * source[2], source[2], 1)
    ends = [(1 - signed[:, :, b].sum(1)) // 2 * ((source[b] - 1) * strides[b]) for b in range(3)]
    index = (ends[0] + ends[1] + ends[2])[:, None, None, None]
    for a in range(3):
        step = signed[:, a, 0] * strides[0] + signed[:, a, 1] * strides[1] + signed[:, a, 2] * strides[2]
        along = torch.arange(shape[a], device=signed.device).reshape(-1, *(1,) * (2 - a))
        index = index + step[:, None, None, None] * along
    return index
