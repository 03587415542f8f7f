"""Eigenvalues of largest magnitude and both ends of the spectrum, by ARPACK; all of them where the matrix is small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

RESTARTS = 20
"""Restarts of ARPACK before it is told to be content."""


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues ``(k,)`` in rising order, both ends of the spectrum among them, with what they are known to.

    Attributes:
        values: Rayleigh quotients of the vectors.
        vectors: orthonormal, ``(k, n)``.
        residuals: ``‖Hu − λu‖``: an eigenvalue lies within this of each value.
        square: ``Σ ‖Hu‖²`` over the vectors.
        converged: whether ARPACK reached the tolerance.
    """

    values: NDArray[np.float64]
    vectors: Tensor
    residuals: NDArray[np.float64]
    square: float
    converged: bool


def extreme(product: Callable[[Tensor], Tensor], start: Tensor, count: int, tolerance: float) -> Eigenpairs:
    """The ``count`` eigenvalues of largest magnitude, and the smallest and the largest.

    The tolerance is relative to the largest magnitude, for all of them: an eigenvalue at zero, of which a network has
    many, has no digits of its own. Therefore an end of the spectrum that is not among the ``count`` is sought as the
    far end of ``2|λ|max − H`` or ``2|λ|max + H``.

    Args:
        product: of the symmetric matrix, ``(n,)`` to ``(n,)``.
        start: a random vector ``(n,)``.
        count: how many, less than n − 1.
        tolerance: relative.
    """
    n = len(start)
    if not bool(product(start).any()):  # ARPACK cannot start on a matrix of zeros
        basis = torch.eye(1, n, dtype=start.dtype, device=start.device)
        return Eigenpairs(np.zeros(1), basis, np.zeros(1), 0.0, True)

    def found(
        sign: float, shift: float, k: int, which: Literal["LM", "LA"], tolerance: float
    ) -> tuple[NDArray[np.float64], bool]:
        def times(x: NDArray[np.float64]) -> NDArray[np.float64]:
            vector = torch.as_tensor(np.ascontiguousarray(x).reshape(-1)).to(start)
            return np.asarray((sign * product(vector)).double().cpu().numpy() + shift * x.reshape(-1))

        operator = LinearOperator((n, n), matvec=times, dtype=np.float64)
        ncv = min(n, max(2 * k + 1, 20))
        v0 = start.double().cpu().numpy()
        try:
            _, vectors = eigsh(operator, k=k, which=which, tol=tolerance, v0=v0, ncv=ncv, maxiter=RESTARTS)
        except ArpackNoConvergence as error:
            if not np.size(error.eigenvectors):  # a tolerance below what a crowd of eigenvalues, or rounding, allows
                return found(sign, shift, k, which, 30 * tolerance)[0], False
            return np.asarray(error.eigenvectors), False
        return np.asarray(vectors), True

    vectors, converged = found(1.0, 0.0, count, "LM", tolerance)
    pairs = _rayleigh(product, vectors, start, converged)
    largest = float(np.abs(pairs.values).max())
    if largest == 0:
        return pairs
    columns = [vectors]
    for sign, there in ((-1.0, pairs.values.min() < 0), (1.0, pairs.values.max() > 0)):
        if not there:
            end, ok = found(sign, 2 * largest, 1, "LA", tolerance)
            columns.append(end)
            converged = converged and ok
    return pairs if len(columns) == 1 else _rayleigh(product, np.concatenate(columns, 1), start, converged)


def dense(product: Callable[[Tensor], Tensor], like: Tensor) -> Eigenpairs:
    """All eigenpairs, from n products.

    Args:
        product: of the symmetric matrix.
        like: a vector ``(n,)`` of its type and device.
    """
    n = len(like)
    unit = torch.eye(n, dtype=like.dtype, device=like.device)
    matrix = torch.stack([product(row) for row in unit]).double().cpu().numpy()
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    residuals = np.linalg.norm(matrix @ vectors - vectors * values, axis=0)
    return Eigenpairs(values, torch.as_tensor(vectors.T.copy()).to(like), residuals, float((values**2).sum()), True)


def _rayleigh(
    product: Callable[[Tensor], Tensor],
    columns: NDArray[np.float64],
    like: Tensor,
    converged: bool,
) -> Eigenpairs:
    """The best values and vectors in a space (Rayleigh–Ritz), with their residuals: one product a vector."""
    orthonormal = np.linalg.qr(columns)[0]
    basis = torch.as_tensor(orthonormal.T.copy()).to(like)
    images = torch.stack([product(row) for row in basis])
    small = (images @ basis.mT).double().cpu().numpy()
    values, rotate = np.linalg.eigh((small + small.T) / 2)
    rotated = torch.as_tensor(rotate.T.copy()).to(like)
    vectors, images = rotated @ basis, rotated @ images
    residuals = (images - torch.as_tensor(values).to(like)[:, None] * vectors).norm(dim=1).double().cpu().numpy()
    return Eigenpairs(values, vectors, residuals, float(images.square().sum()), converged)
