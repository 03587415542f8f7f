"""Values of a field between the voxels: linear and cubic interpolation, with the exact value wherever a voxel is met.

Interpolation is linear in the values: its derivative is its adjoint, which spreads values over the voxels, and the
adjoint's derivative is interpolation again. So both can be differentiated as often as one likes, which torch's own
``grid_sample`` cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.autograd import Function
from torch.nn.functional import embedding_bag, grid_sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

Kind = Literal["linear", "cubic"]

CPU_PLACES, DEVICE_PLACES = 2**13, 2**19
"""Places of which all 64 taps are held at a time."""


def interpolate(values: Tensor, at: Tensor, kind: Kind) -> Tensor:
    """Values between voxels; beyond the outermost voxels, those of the nearest.

    Args:
        values: ``(K, M, D, H, W)``, float32 or float64.
        at: where, counted in voxels along each axis, ``(K, *S, 3)``; whole numbers give the voxel's value to the bit.
        kind: ``"linear"``, whose error falls as the square of the voxel, or ``"cubic"``, as its cube: Keys' convolution
            with ``a = −1/2``.

    Returns:
        ``(K, M, *S)``, differentiable in the values.

    Source: Keys, IEEE Trans. Acoust. Speech Signal Process. 29 (1981) 1153.
    """
    found: Tensor = _Interpolate.apply(values, at.detach(), kind)  # type: ignore[no-untyped-call]
    return found


def places(
    rotations: Tensor,
    shape: Sequence[int],
    spacing: Sequence[float],
    half_lengths: Sequence[float],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Where the values of a rotated grid come from: ``g⁻¹ p`` for every voxel's p, counted in voxels.

    Rotations ``(K, 3, 3)``, spacing and half lengths of the box are in the array's own axes.

    Returns:
        ``(K, D, H, W, 3)``, and whether that is in the box, ``(K, D, H, W)``.
    """
    wide = torch.float32 if device.type == "mps" else torch.float64
    own = rotations.to(device, wide, non_blocking=True)
    rounding = 64 * torch.finfo(torch.promote_types(rotations.dtype, torch.float32)).eps * max(shape)
    at, inside = [], torch.ones((), dtype=torch.bool, device=device)
    steps = [torch.arange(n, device=device, dtype=wide) - (n - 1) / 2 for n in shape]
    for b, half in enumerate(half_lengths):
        middle = (shape[b] - 1) / 2
        slopes = [own[:, a, b][:, None, None, None] * (spacing[a] / spacing[b]) for a in range(3)]
        x, y, z = (slopes[a] * steps[a].reshape(-1, *(1,) * (2 - a)) for a in range(3))
        along = x + y + z + middle
        nearest = along.round()
        # Within rounding of a voxel it is that voxel: the cube's rotations stay exact.
        at.append(torch.where((along - nearest).abs() < rounding, nearest, along))
        inside = inside & ((along - middle).abs() <= half / spacing[b] + rounding)
    return torch.stack(at, -1), inside


class _Interpolate(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, at: Tensor, kind: Kind) -> Tensor:
        ctx.save_for_backward(at)
        ctx.kind, ctx.shape = kind, values.shape
        return _linear(values, at) if kind == "linear" else _cubic(values, at)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (at,) = ctx.saved_tensors
        return _Spread.apply(grads[0], at, ctx.kind, ctx.shape), None, None  # type: ignore[no-untyped-call]


class _Spread(Function):
    """The adjoint of interpolation."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, at: Tensor, kind: Kind, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(at)
        ctx.kind = kind
        return _linear_adjoint(values, at, shape) if kind == "linear" else _cubic_adjoint(values, at, shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (at,) = ctx.saved_tensors
        return _Interpolate.apply(grads[0], at, ctx.kind), None, None, None  # type: ignore[no-untyped-call]


def _flat(index: list[Tensor], shape: torch.Size) -> Tensor:
    """Places in the flattened grid, of voxel numbers along the three axes."""
    return (index[0] * shape[-2] + index[1]) * shape[-1] + index[2]


def _nearest(at: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """The nearest voxel of each place, flattened, ``(K, 1, V)``, and whether the place is that voxel."""
    index = [at[..., a].round().long().clamp(0, shape[a - 3] - 1) for a in range(3)]
    met = torch.stack([at[..., a] == index[a] for a in range(3)]).all(0)
    return _flat(index, shape).flatten(1)[:, None], met.flatten(1)[:, None]


def _places(at: Tensor, like: Tensor, shape: torch.Size) -> Tensor:
    """As ``grid_sample`` wants them: the last axis first, from −1 to 1."""
    scaled = [at[..., a] * (2 / max(shape[a - 3] - 1, 1)) - 1 for a in (2, 1, 0)]
    return torch.stack(scaled, -1).to(like).reshape(len(at), 1, 1, -1, 3)


def _linear(values: Tensor, at: Tensor) -> Tensor:
    between = grid_sample(values, _places(at, values, values.shape), padding_mode="border", align_corners=True)
    # Its weights are rounded even where the place is a voxel: there the voxel's own value is taken.
    nearest, met = _nearest(at, values.shape)
    exact = values.flatten(2).gather(2, nearest.expand(-1, values.shape[1], -1))
    return torch.where(met, exact, between.flatten(2)).reshape(*values.shape[:2], *at.shape[1:-1])


def _linear_adjoint(values: Tensor, at: Tensor, shape: torch.Size) -> Tensor:
    flat = values.flatten(2)
    nearest, met = _nearest(at, shape)
    zero = flat.new_zeros(())
    between = torch.where(met, zero, flat)[:, :, None, None]
    like = zero.expand(shape)  # its shape counts, and that it is finite
    spread: Tensor = torch.ops.aten.grid_sampler_3d_backward(
        between, like, _places(at, flat, shape), 0, 1, True, (True, False)
    )[0]
    exact = flat.new_zeros(*shape[:2], spread[0, 0].numel())
    exact.scatter_add_(2, nearest.expand(-1, shape[1], -1), torch.where(met, flat, zero))
    return spread + exact.view(shape)


def _taps(at: Tensor, start: Tensor, shape: torch.Size, like: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the 64 taps of places ``(P, 3)`` its row among all voxels and its weight, ``(P, 64)``.

    ``start`` is the row at which the grid of each place begins, ``(P,)``.
    """
    index, weights = [], []
    for a in range(3):
        base = at[:, a].floor()
        t = (at[:, a] - base).to(like)
        taps = [
            t * (t * (1 - t / 2) - 0.5),
            1 + t * t * (1.5 * t - 2.5),
            t * (0.5 + t * (2 - 1.5 * t)),
            t * t * (t - 1) / 2,
        ]
        index.append(torch.stack([(base + step).long().clamp(0, shape[a - 3] - 1) for step in (-1, 0, 1, 2)], 1))
        weights.append(torch.stack(taps, 1))
    plane = start[:, None, None] + (index[0][:, :, None] * shape[-2] + index[1][:, None]) * shape[-1]
    rows = plane[..., None] + index[2][:, None, None]
    weight = (weights[0][:, :, None] * weights[1][:, None])[..., None] * weights[2][:, None, None]
    return rows.flatten(1), weight.flatten(1)


def _blocks(at: Tensor, shape: torch.Size) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Places in blocks, with the rows at which their grids begin; on a CPU as many as its cache is good for."""
    flat, starts = at.reshape(-1, 3), _offsets(at, shape)
    size = CPU_PLACES if at.device.type == "cpu" else DEVICE_PLACES
    for begin in range(0, len(flat), size):
        block = slice(begin, begin + size)
        yield block, flat[block], starts[block]


def _rows(values: Tensor) -> Tensor:
    """Channels last, ``(K, M, *S) -> (K·V, M)``: the channels of a voxel lie together."""
    return values.flatten(2).mT.reshape(-1, values.shape[1])


def _offsets(at: Tensor, shape: torch.Size) -> Tensor:
    """Where the grid of each copy begins, ``(K·V,)``."""
    begins = torch.arange(len(at), device=at.device) * (shape[-3] * shape[-2] * shape[-1])
    return begins.repeat_interleave(at.numel() // (3 * len(at)), output_size=at.numel() // 3)


def _cubic(values: Tensor, at: Tensor) -> Tensor:
    rows = _rows(values)
    found = rows.new_empty(at.numel() // 3, rows.shape[1])
    for block, near, start in _blocks(at, values.shape):
        place, weight = _taps(near, start, values.shape, values)
        found[block] = embedding_bag(place, rows, per_sample_weights=weight, mode="sum")
    return found.reshape(len(at), -1, values.shape[1]).mT.reshape(*values.shape[:2], *at.shape[1:-1])


def _cubic_adjoint(values: Tensor, at: Tensor, shape: torch.Size) -> Tensor:
    rows = _rows(values)
    voxels = shape[-3] * shape[-2] * shape[-1]
    found = rows.new_zeros(shape[0] * voxels, rows.shape[1])
    for block, near, start in _blocks(at, shape):
        for place, weight in zip(*(taps.unbind(1) for taps in _taps(near, start, shape, values)), strict=True):
            found.index_add_(0, place, rows[block] * weight[:, None])
    return found.reshape(shape[0], voxels, shape[1]).mT.reshape(shape)
