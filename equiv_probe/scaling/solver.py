"""Many small robust fits of a power law at once: the bootstrap's work horse.

A law is ``log y = log(E + Σ_i A_i exp(−α_i z_i))`` with ``θ = (E, A_1, α_1, A_2, α_2, ...)``, all bounded from below.
Its Huber loss is minimised by Levenberg and Marquardt's method with Huber's weights, for all resamples and all starts
in one array. SciPy has this for one fit at a time: for a thousand resamples
from three starts each, ``scipy.optimize.least_squares(loss="huber")`` takes 12 s for the same minima, this 0.1 s.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

STEPS = 120
"""Enough for all but the flattest of fits; those that have not converged are counted."""
SMALL = 1e-10
"""Relative decrease of the loss below which a fit is done."""


def predicted(theta: Array, z: Array) -> Array:
    """The law's values.

    Args:
        theta: ``(..., 1 + 2 k)``.
        z: logarithms of the variables, ``(n, k)``.

    Returns:
        ``(..., n)``.

    >>> predicted(np.array([1.0, 2.0, 0.5]), np.log([[1.0], [4.0]])).tolist()
    [3.0, 2.0]
    """
    terms = theta[..., None, 1::2] * np.exp(-theta[..., None, 2::2] * z)
    values: Array = theta[..., None, 0] + terms.sum(-1)
    return values


def gradient(theta: Array, z: Array) -> tuple[Array, Array]:
    """Values ``(..., n)`` of the law, and derivatives of their logarithms by ``theta``, ``(..., n, 1 + 2 k)``."""
    decays = np.exp(-theta[..., None, 2::2] * z)
    terms = theta[..., None, 1::2] * decays
    values = theta[..., None, 0] + terms.sum(-1)
    slopes = np.empty((*values.shape, theta.shape[-1]))
    slopes[..., 0] = 1
    slopes[..., 1::2] = decays
    slopes[..., 2::2] = -z * terms
    return values, slopes / values[..., None]


def huber(residuals: Array, delta: float) -> Array:
    """Huber's loss in units of ``delta²``: ``r²/2`` up to ``|r| = 1``, linear beyond; ``r = residuals / delta``."""
    return np.asarray(special.huber(1.0, residuals / delta))


def solve(
    z: Array, log_y: Array, weights: Array, starts: Array, *, bounds: tuple[Array, Array], delta: float
) -> tuple[Array, Array, Array]:
    """Fit every row of ``log_y`` from every start, and keep the best.

    Args:
        z: logarithms of the variables, ``(n, k)``.
        log_y: ``(B, n)``.
        weights: of the runs, such as how often a resample drew them, ``(B, n)``.
        starts: ``(S, p)``, or ``(B, S, p)``.
        bounds: lowest and highest ``theta``, ``(p,)`` each; equal ones fix it.
        delta: Huber's, in units of ``log_y``.

    Returns:
        ``theta`` ``(B, p)``, the loss ``(B,)``, and whether it converged ``(B,)``.
    """
    rows, parameters = log_y.shape[0], starts.shape[-1]
    starts = np.broadcast_to(starts, (rows, *starts.shape[-2:]))
    count = starts.shape[1]
    theta = np.clip(starts.reshape(-1, parameters), *bounds)
    y, w = np.repeat(log_y, count, 0), np.repeat(weights, count, 0)
    loss = _loss(theta, z, y, w, delta)
    damping = np.full(len(theta), 1e-2)
    calm = np.zeros(len(theta), dtype=np.intp)
    open_ = np.arange(len(theta))
    for _ in range(STEPS):
        if not len(open_):
            break
        now = theta[open_]
        step = _step(now, z, y[open_], w[open_], bounds=bounds, delta=delta, damping=damping[open_])
        trial = np.clip(now + step, *bounds)
        found = _loss(trial, z, y[open_], w[open_], delta)
        better = found < loss[open_]
        done = loss[open_] - found <= SMALL * (1e-12 + loss[open_])
        theta[open_[better]], loss[open_[better]] = trial[better], found[better]
        damping[open_] = np.clip(damping[open_] * np.where(better, 0.2, 6.0), 1e-12, 1e14)
        # A rejected step says little as long as it can be made shorter.
        calm[open_] = np.where(done & (better | (damping[open_] > 1e8)), calm[open_] + 1, 0)
        open_ = open_[calm[open_] < 2]
    best = loss.reshape(rows, count).argmin(1) + count * np.arange(rows)
    converged = np.ones(len(theta), dtype=bool)
    converged[open_] = False
    return theta[best], loss[best], converged[best]


def _loss(theta: Array, z: Array, log_y: Array, weights: Array, delta: float) -> Array:
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        total: Array = (weights * huber(np.log(predicted(theta, z)) - log_y, delta)).sum(-1)
    return np.where(np.isfinite(total), total, np.inf)


def _step(
    theta: Array, z: Array, log_y: Array, weights: Array, *, bounds: tuple[Array, Array], delta: float, damping: Array
) -> Array:
    values, slopes = gradient(theta, z)
    residuals = np.log(values) - log_y
    w = weights / np.maximum(1.0, np.abs(residuals) / delta)
    downhill = -np.einsum("bnp,bn->bp", slopes, w * residuals)
    curvature = np.einsum("bnp,bnq->bpq", slopes * w[..., None], slopes)
    # What stands at a bound and would go beyond it stays where it is.
    stuck = ((theta <= bounds[0]) & (downhill <= 0)) | ((theta >= bounds[1]) & (downhill >= 0))
    downhill[stuck] = 0
    curvature[stuck[..., None] | stuck[:, None, :]] = 0
    place = np.arange(theta.shape[-1])
    size = curvature[:, place, place]
    size = np.maximum(size, 1e-12 * size.max(-1, keepdims=True) + 1e-300)
    curvature[:, place, place] = size * (1 + damping[:, None])
    step: Array = np.linalg.solve(curvature, downhill[..., None])[..., 0]
    return np.where(np.isfinite(step), step, 0.0)
