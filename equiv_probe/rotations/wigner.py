r"""Wigner matrices ``D^l`` of real harmonics, in a basis of our own: ``D(g h) = D(g) D(h)``, orthogonal.

With ``2l + 1`` directions ``u_a``, the functions ``P_l(u_a·x)`` span the harmonics of degree l. By the addition theorem
their inner products are ``G_ab ∝ P_l(u_a·u_b)`` and those with rotated ones ``K_ab(g) ∝ P_l(u_a·g u_b)``, so that
``D^l(g) = G^{-1/2} K(g) G^{-1/2}`` is the rotation's matrix in an orthonormal basis. What does not depend on the basis,
norms and traces, is all that is asked of it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def wigner(degree: int, rotations: Tensor) -> Tensor:
    """``D^l`` of rotations ``(..., 3, 3)`` float64, ``(..., 2l + 1, 2l + 1)``.

    >>> g = torch.linalg.matrix_exp(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.float64))
    >>> f"{wigner(2, g).diagonal().sum():.6f}"  # the character, 1 + 2 cos 1 + 2 cos 2
    '1.248311'
    """
    directions, root = _basis(degree)
    images = torch.einsum("ai,...ij,bj->...ab", directions, rotations, directions)
    return root @ _legendre(degree, images) @ root


@lru_cache(maxsize=16)
def _basis(degree: int) -> tuple[Tensor, Tensor]:
    """Directions ``(2l + 1, 3)``, spread over half a sphere as a spiral, and ``G^{-1/2}``."""
    count = 2 * degree + 1
    place = torch.arange(count, dtype=torch.float64)
    z, angle = (place + 0.5) / count, place * math.pi * (3 - math.sqrt(5))
    radius = (1 - z.square()).sqrt()
    directions = torch.stack([radius * angle.cos(), radius * angle.sin(), z], -1)
    values, vectors = torch.linalg.eigh(_legendre(degree, directions @ directions.mT))
    return directions, vectors @ (values.rsqrt()[:, None] * vectors.mT)


def _legendre(degree: int, cosine: Tensor) -> Tensor:
    """``P_l``, by Bonnet's recursion."""
    last, current = torch.zeros_like(cosine), torch.ones_like(cosine)
    for k in range(degree):
        last, current = current, ((2 * k + 1) * cosine * current - k * last) / (k + 1)
    return current
