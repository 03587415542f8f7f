"""One robust fit of a power law, from many starts.

As in Hoffmann et al. (2022, arXiv:2203.15556), the loss is Huber's of the residuals of ``log L``. What Besiroglu et al.
(2024, arXiv:2404.10102) found wrong with that fit is avoided: the objective is a sum in units of Huber's delta, not a
mean of tiny numbers at which the optimiser stops early; delta follows the scatter of the data; and every start's end is
kept, so that it can be said how many agree.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from equiv_probe.scaling.solver import Array, predicted, solve

LARGEST = 5.0
"""Exponents end here: with a steeper decay than this the data only say that it is steep."""
SMALLEST = 0.01
EFFICIENT = 1.345
"""Huber's delta in standard deviations: 95 % efficient for normal residuals (Huber and Ronchetti, 2009)."""
EXACT = 1e-6
"""The least delta, for data without noise."""


@dataclass(frozen=True)
class Optimum:
    """The best of many starts.

    Attributes:
        theta: ``(p,)``, in units of the scaled data.
        residuals: of ``log L``, data minus law, ``(n,)``.
        delta: Huber's.
        starts: how many there were.
        agreeing: how many of them ended within one part in a thousand of the lowest loss.
    """

    theta: Array
    residuals: Array
    delta: float
    starts: int
    agreeing: int


def bounds_of(variables: int, floor: float | None) -> tuple[Array, Array]:
    """Lowest and highest parameters; a known floor is fixed, and so is ``E``."""
    low = np.array([0.0, *([0.0, SMALLEST] * variables)])
    high = np.array([np.inf, *([np.inf, LARGEST] * variables)])
    if floor is not None:
        low[0] = high[0] = floor
    return low, high


def starts_of(z: Array, log_y: Array, floor: float | None) -> Array:
    """A grid of exponents; for each the coefficients that fit best are known: the law is linear in them.

    Args:
        z: logarithms of the variables, ``(n, k)``.
        log_y: ``(n,)``.
        floor: known ``E``; None is unknown.

    Returns:
        ``(S, 1 + 2 k)``.
    """
    grid = (0.1, 0.3, 0.7, 1.5)
    y = np.exp(log_y)
    found = []
    for exponents in itertools.product(grid, repeat=z.shape[1]):
        columns = np.exp(-np.array(exponents) * z) / y[:, None]
        if floor is None:
            solved, _ = nnls(np.column_stack([1 / y, columns]), np.ones(len(y)))
        else:
            solved, _ = nnls(columns, 1 - floor / y)
            solved = np.array([floor, *solved])
        start = np.empty(1 + 2 * z.shape[1])
        start[0], start[1::2], start[2::2] = solved[0], np.maximum(solved[1:], 1e-3), exponents
        found.append(start)
    return np.array(found)


def optimum(z: Array, log_y: Array, delta: float | None, floor: float | None) -> Optimum:
    """Fit once.

    Args:
        z: logarithms of the variables about their means, ``(n, k)``.
        log_y: logarithms of the losses about their mean, ``(n,)``.
        delta: Huber's, in units of ``log_y``; None is 1.345 robust standard deviations of the residuals.
        floor: ``E`` if it is known, in units of the scaled loss.
    """
    starts = starts_of(z, log_y, floor)
    bounds = bounds_of(z.shape[1], floor)
    if delta is None:
        # A guess, to know how far the runs scatter: from a small delta, which outliers do not move, to the right one.
        guess, known, free = starts, 0.01, int((bounds[0] < bounds[1]).sum())
        for _ in range(3):
            ends, _, _ = solve(z, log_y[None], np.ones((1, len(log_y))), guess, bounds=bounds, delta=known)
            known = max(EFFICIENT * scatter(log_y - np.log(predicted(ends[0], z)), free), EXACT)
            guess = ends
        starts = np.vstack([starts, guess])
    else:
        known = delta
    same = np.broadcast_to(log_y, (len(starts), len(log_y)))
    ends, losses, _ = solve(z, same, np.ones(same.shape), starts[:, None], bounds=bounds, delta=known)
    theta, agreeing = ends[losses.argmin()], int((losses <= losses.min() * 1.001 + 1e-9).sum())
    return Optimum(theta, log_y - np.log(predicted(theta, z)), known, len(starts), agreeing)


def scatter(residuals: Array, parameters: int) -> float:
    """A robust standard deviation: 1.4826 times the median size, with the degrees of freedom that the fit took."""
    free = max(len(residuals) - parameters, 1)
    return float(1.4826 * np.median(np.abs(residuals)) * np.sqrt(len(residuals) / free))
