"""Eigenvalues of largest magnitude and both ends of the spectrum, by ARPACK; all of them where the matrix is small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    Values = NDArray[np.float64]

RESTARTS = 20
"""Restarts of ARPACK before it gives up."""
ROUNDINGS = 8
"""What is computed from exact numbers is known to within so many units in the last place of the largest."""


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues ``(k,)`` in rising order, both ends of the spectrum among them, with what they are known to.

    Attributes:
        values: Rayleigh quotients of the vectors.
        vectors: orthonormal, ``(k, n)``.
        residuals: ``‖Hu − λu‖``: an eigenvalue lies within this of each value.
        square: ``Σ ‖Hu‖²`` over the vectors.
        converged: whether ARPACK reached the tolerance.
        floor: eigenvalues below this magnitude are rounding, or noise, of zero; NaN where that is not known.
    """

    values: NDArray[np.float64]
    vectors: Tensor
    residuals: NDArray[np.float64]
    square: float
    converged: bool
    floor: float = math.nan


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
    vectors, converged = _arpack(product, start, count, "LM", tolerance)
    pairs = _rayleigh(product, vectors, start, converged)
    largest = float(np.abs(pairs.values).max())
    columns = [vectors]
    for sign, there in ((-1.0, pairs.values.min() < 0), (1.0, pairs.values.max() > 0)):
        if not there and largest > 0:
            end, ok = _arpack(product, start, 1, "LA", tolerance, sign=sign, shift=2 * largest)
            columns.append(end)
            converged = converged and ok
    return pairs if len(columns) == 1 else _rayleigh(product, np.concatenate(columns, 1), start, converged)


def _arpack(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    count: int,
    which: Literal["LM", "LA"],
    tolerance: float,
    *,
    sign: float = 1.0,
    shift: float = 0.0,
) -> tuple[Values, bool]:
    """Eigenvectors ``(n, k)`` of ``shift + sign H``, and whether they are within the tolerance."""
    n = len(start)

    def times(x: Values) -> Values:
        vector = torch.as_tensor(np.ascontiguousarray(x).reshape(-1)).to(start)
        return np.asarray((sign * product(vector)).double().cpu().numpy() + shift * x.reshape(-1))

    operator = LinearOperator((n, n), matvec=times, dtype=np.float64)
    how: dict[str, Any] = {
        "v0": start.double().cpu().numpy(),
        "ncv": min(n, max(2 * count + 1, 20)),
        "maxiter": RESTARTS,
    }
    try:
        return np.asarray(eigsh(operator, k=count, which=which, tol=tolerance, **how)[1]), True
    except ArpackNoConvergence as error:
        found = error.eigenvectors
    if not np.size(found):  # a tolerance below what a crowd of eigenvalues, or rounding, allows
        found = _arpack(product, start, count, which, 30 * tolerance, sign=sign, shift=shift)[0]
    return np.asarray(found), False


def dense(rows: Tensor, precision: float) -> Eigenpairs:
    """All eigenpairs of a matrix that would be symmetric but for rounding, or noise.

    Its antisymmetric part is nothing else, and is as large as that of the symmetric part: so its spectral norm is how
    far eigenvalues may be off, and those nearer to zero are zero as far as one knows.

    Args:
        rows: of the matrix, ``(n, n)``.
        precision: of the numbers that it was computed from, relative.
    """
    matrix = rows.double().cpu().numpy()
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    residuals = np.linalg.norm(matrix @ vectors - vectors * values, axis=0)
    floor = max(_spectral_norm((matrix - matrix.T) / 2), ROUNDINGS * precision * float(np.abs(values).max()))
    basis = torch.as_tensor(vectors.T.copy()).to(rows)
    return Eigenpairs(values, basis, residuals, float((values**2).sum()), converged=True, floor=floor)


def _spectral_norm(matrix: Values, steps: int = 30) -> float:
    """The largest singular value, by the power method from below: to a few per cent."""
    vector = matrix[int(np.abs(matrix).sum(1).argmax())]
    length = 0.0
    for _ in range(steps):
        size = float(np.linalg.norm(vector))
        if size == 0:
            return 0.0
        image = matrix @ (vector / size)
        length, vector = float(np.linalg.norm(image)), matrix.T @ image
    return length


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
