"""The share of two power laws with floors: where it is, where it is lowest, and where it ends.

With ``L_i = E_i + A_i t^−α_i``, the log odds of the share are ``log L_equiv − log L_mean``. Their derivative by
``log t`` is the difference of the local slopes, ``α_m w_m − α_e w_e`` with ``w = A t^−α / L``, the part of a loss above
its floor: the share falls while ``L_equiv`` falls faster, and is lowest where the slopes are equal. Written out that is
``α_e A_e E_m t^α_m − α_m A_m E_e t^α_e + (α_e − α_m) A_e A_m = 0``, which has two roots at most, one of them a minimum.
Without a floor of ``L_equiv`` (``E_e = 0``) there is no minimum: the share ends at 0, or only rises. Without a floor
of ``L_mean`` the minimum is at ``t^α_e = (α_e / α_m − 1) A_e / E_e``, if ``L_equiv`` falls with the higher power.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.scaling.solver import predicted

if TYPE_CHECKING:
    from equiv_probe.scaling.solver import Array

FARTHEST = 1e6
"""How many times the first step a dip is looked for."""
PLACES = 600


def shares(mean: Array, equiv: Array, steps: Array) -> Array:
    """The share.

    Args:
        mean: parameters ``E``, ``A``, ``alpha`` of ``L_mean``, ``(B, 3)``.
        equiv: of ``L_equiv``, ``(B, 3)``.
        steps: ``(T,)``.

    Returns:
        ``(B, T)``.

    >>> shares(np.array([[1.0, 0.0, 1.0]]), np.array([[0.0, 3.0, 1.0]]), np.array([3.0])).tolist()
    [[0.5]]
    """
    z = np.log(steps)[:, None]
    m, e = (predicted(np.nan_to_num(theta), z) for theta in (mean, equiv))
    return np.asarray(e / (m + e))


def dips(mean: Array, equiv: Array, start: float) -> tuple[Array, Array]:
    """Steps and depths of the lowest share after a step, ``(B,)`` each; NaN where the share has no minimum there."""
    u = np.log(start) + np.linspace(0, np.log(FARTHEST), PLACES)
    slope = _slope(mean, u[None]) - _slope(equiv, u[None])
    turns = (slope[:, :-1] < 0) & (slope[:, 1:] >= 0)
    place = turns.argmax(1)
    row = np.arange(len(mean))
    low, high = u[place], u[place + 1]
    for _ in range(50):  # halves the stretch in which the sign changes, of all rows at once
        middle = (low + high) / 2
        falls = (_slope(mean, middle[:, None]) - _slope(equiv, middle[:, None]))[:, 0] < 0
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    steps = np.where(turns.any(1), np.exp(low), np.nan)
    depths = shares(mean, equiv, np.exp(low))[row, row]
    return steps, np.where(turns.any(1), depths, np.nan)


def _slope(theta: Array, u: Array) -> Array:
    """How fast a loss falls, ``−d log L / d log t``, ``(B, T)``, at ``u = log t`` of shape ``(B or 1, T)``."""
    floor, size, exponent = (np.nan_to_num(theta[:, i, None]) for i in range(3))
    above = size * np.exp(-exponent * u)
    return np.asarray(exponent * above / (floor + above))


def limits(mean: Array, equiv: Array) -> Array:
    """Where the share ends, ``(B,)``: the floors' share; without floors that of the loss that falls more slowly."""
    (m, a_m, alpha_m), (e, a_e, alpha_e) = (np.nan_to_num(theta.T) for theta in (mean, equiv))
    with np.errstate(divide="ignore", invalid="ignore"):
        ended = np.where(alpha_e < alpha_m, 1.0, np.where(alpha_e > alpha_m, 0.0, a_e / (a_m + a_e)))
        return np.asarray(np.where(m + e > 0, e / (m + e), ended))
