r"""Outputs that vary from call to call: what is broken symmetry, and what is chance.

Of two evaluations ``a_k`` and ``b_k`` at each rotation, with independent noise of mean zero, the covariance over
rotations is that of the model's mean: with the quadratic form Q of the jackknife (``L_equiv`` of squared error)

    L_equiv(mean) = Q((a + b)/2) − Q((a − b)/2),

without bias, replicate by replicate, and so with an error bar of its own: the noise is subtracted, not counted, and
its variance in one call is ``2 E Q((a − b)/2)``.

Whether there is more than chance is asked of the pairing itself: if the mean is equivariant, which ``b`` belongs to
which ``a`` does not matter. Over all pairings ``T = Σ_k ⟨a_k − ā, b_k − b̄⟩`` has mean zero and variance
``‖A Bᵀ‖² / (K − 1)`` with the rows of A and B centred (Hoeffding, Ann. Math. Statist. 22 (1951) 558).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def pairing_score(first: Tensor, second: Tensor) -> tuple[float, float]:
    """``T`` and its variance over random pairings, both of the mean over rotations and components.

    Args:
        first: one evaluation at each of K rotations, rotated back, ``(K, *S)``.
        second: another at the same rotations.

    Returns:
        ``T / (K·S)``, the covariance over rotations (biased by 1/K), and the variance that chance gives it.
    """
    count = len(first)
    a, b = (rows.reshape(count, -1).double() for rows in (first, second))
    a, b = a - a.mean(0), b - b.mean(0)
    products = a @ b.mT
    size = a.numel()
    return float(products.trace()) / size, float(products.square().sum()) / (count - 1) / size**2
