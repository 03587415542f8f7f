r"""Lanczos with full reorthogonalisation, and the Gauss quadrature that its tridiagonal matrix holds.

With T, the tridiagonal matrix of m steps from a unit vector v, ``vᵀ f(H) v ≈ Σ_i τ_i f(θ_i)``: θ are the eigenvalues of
T and τ the squares of the first components of its eigenvectors; exact for polynomials up to degree 2m − 1. Averaged
over random v it is the spectral density of H (Ubaru, Chen & Saad, SIAM J. Matrix Anal. Appl. 38 (2017) 1075; for
networks Ghorbani, Krishnan & Xiao, ICML 2019, arXiv:1901.10159).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Quadrature:
    """Nodes and weights ``(m,)`` of one start vector v, weights adding to one; ``vᵀHv`` and ``‖Hv‖²``."""

    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]
    quadratic: float
    square: float


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, steps: int, without: Tensor | None = None
) -> Quadrature:
    """The quadrature of a symmetric matrix for one start vector.

    Args:
        product: of the matrix H, ``(n,)`` to ``(n,)``.
        start: ``(n,)``, of any length.
        steps: m; fewer are made where the vectors reached span an invariant space.
        without: orthonormal vectors ``(k, n)``: then it is of ``P H P``, P projecting on what is orthogonal.

    Returns:
        The quadrature; ``quadratic`` and ``square`` are of H itself, at the start vector projected and of length one.
    """
    basis = start[None][:0] if without is None else without
    rows = [_orthogonal(start, basis)]
    rows[0] = rows[0] / rows[0].norm()
    diagonal: list[float] = []
    beside: list[float] = []
    quadratic = square = 0.0
    steps = min(steps, len(start) - len(basis))
    for step in range(steps):
        image = product(rows[-1])
        if step == 0:
            quadratic, square = float(image @ rows[0]), float(image @ image)
        diagonal.append(float(image @ rows[-1]))
        # Against all vectors before, twice: in floating-point arithmetic three terms are not enough.
        rest = _orthogonal(image, torch.cat([basis, torch.stack(rows)]))
        length = float(rest.norm())
        scale = max(map(abs, diagonal + beside), default=0.0)
        if step == steps - 1 or length <= 1e-10 * max(scale, float(image.norm())) or length == 0:
            break
        beside.append(length)
        rows.append(rest / length)
    nodes, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
    return Quadrature(np.asarray(nodes, np.float64), np.asarray(vectors[0] ** 2, np.float64), quadratic, square)


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    for _ in range(2):
        vector = vector - basis.mT @ (basis @ vector)
    return vector
