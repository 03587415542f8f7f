"""Haar-distributed rotations, and what any rotation has: its angle, and the generators of all of them.

Rotations are ``(..., 3, 3)`` float64 tensors acting on column vectors, ``x' = g x``; row-stored coordinates rotate as
``pos @ g.mT``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def haar(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw Haar-distributed rotations as normalised Gaussian quaternions.

    Args:
        count: how many.
        generator: source of every draw; None draws from a fresh, randomly seeded one. The global random state is
            neither read nor moved.

    Returns:
        ``(count, 3, 3)`` float64.

    Source: Marsaglia, Ann. Math. Statist. 43 (1972) 645; Shoemake, Graphics Gems III (1992) 124.

    >>> haar(2, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 3])
    """
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    quaternions = torch.randn(count, 4, generator=generator, dtype=torch.float64, device=generator.device)
    return from_quaternions(quaternions)


def from_quaternions(quaternions: Tensor) -> Tensor:
    """Rotate quaternions ``(..., 4)`` (w, x, y, z; any non-zero length) into rotations ``(..., 3, 3)``."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def to_quaternions(rotations: Tensor) -> Tensor:
    """Unit quaternions ``(..., 4)`` (w, x, y, z; of either sign) of rotations ``(..., 3, 3)``, accurate at all angles.

    The row of ``4 q qᵀ``, which is linear in the matrix, with the largest component on its diagonal (Shepperd,
    J. Guidance Control 1 (1978) 223).
    """
    trace = rotations.diagonal(dim1=-2, dim2=-1).sum(-1)
    skew = rotations - rotations.mT
    products = rotations.new_empty(*rotations.shape[:-2], 4, 4)
    products[..., 0, 0] = 1 + trace
    products[..., 0, 1:] = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1)
    products[..., 1:, 0] = products[..., 0, 1:]
    products[..., 1:, 1:] = rotations + rotations.mT + (1 - trace)[..., None, None] * torch.eye(3).to(rotations)
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = products.take_along_dim(largest[..., None, None], -2)[..., 0, :]
    return torch.nn.functional.normalize(row, dim=-1)


def angles(rotations: Tensor) -> Tensor:
    """Angle of each rotation in radians, ``(..., 3, 3) -> (...)``, accurate near 0 and near π."""
    trace = rotations.diagonal(dim1=-2, dim2=-1).sum(-1)
    skew = rotations - rotations.mT
    sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1).norm(dim=-1)
    return torch.atan2(sine, trace - 1)


@lru_cache(maxsize=1)
def generators() -> Tensor:
    """The skew generators ``J_a`` of rotation about x, y, z, ``(3, 3, 3)`` float64: ``exp(θ J_a)`` rotates by θ."""
    basis = torch.zeros(3, 3, 3, dtype=torch.float64)
    for a, (b, c) in enumerate(((1, 2), (2, 0), (0, 1))):
        basis[a, c, b], basis[a, b, c] = 1.0, -1.0
    return basis
