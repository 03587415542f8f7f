"""The sizes with the lowest loss at a cost: in closed form where the cost is a product of powers, else along isocosts.

For ``L = E + A N^−alpha + B D^−beta`` and a cost ``C = k N^p D^q`` the optimum is where ``alpha A N^−alpha / p = beta B
D^−beta / q``. With ``p = q = 1`` this is Hoffmann et al. (2022, arXiv:2203.15556), equation 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq, minimize_scalar

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from equiv_probe.scaling.cost import Cost
    from equiv_probe.scaling.solver import Array


def closed(thetas: Array, costs: Array, cost: Cost) -> tuple[Array, Array]:
    """Two linear equations in ``log N`` and ``log D``: of the slopes, and of the cost."""
    _, a, alpha, b, beta = (thetas[:, i, None] for i in range(5))
    ratio = np.log(alpha * a * cost.q / (beta * b * cost.p))
    budget = np.log(costs / cost.k)
    log_n = (cost.q * ratio + beta * budget) / (cost.q * alpha + cost.p * beta)
    log_d = (budget - cost.p * log_n) / cost.q
    return np.exp(log_n), np.exp(log_d)


def numerical(
    thetas: Array, costs: Array, cost: Callable[[float, float], float], ranges: Sequence[tuple[float, float]]
) -> tuple[Array, Array]:
    """Along the line of one cost, the lowest loss; sizes may leave the range of the runs by a factor of a million."""
    u_range, v_range = ((np.log(low / 1e6), np.log(high * 1e6)) for low, high in ranges)
    n, d = np.full((2, len(thetas), len(costs)), np.nan)
    for place, budget in enumerate(costs):
        log_n, log_d = _isocost(cost, float(budget), u_range, v_range)
        if len(log_n) < 3:
            raise EquivProbeError(
                f"no sizes within a million times those of the runs that cost {budget:g}",
                "a cost that grows with both sizes, and a compute in its unit",
                "compute=[...], cost=lambda n, d: ...",
            )
        # Smooth in the logarithms, as costs are; the loss along it is then a function of one variable.
        line = CubicSpline(log_n, log_d)
        for row, theta in enumerate(thetas):
            best = int(np.argmin(_along(log_n, log_d, theta)))
            ends = log_n[max(best - 1, 0)], log_n[min(best + 1, len(log_n) - 1)]
            u = minimize_scalar(
                lambda at, theta=theta, line=line: float(_along(at, line(at), theta)),
                bounds=ends,
                method="bounded",
                options={"xatol": 1e-9},
            ).x
            n[row, place], d[row, place] = np.exp(u), np.exp(line(u))
    return n, d


def _along(log_n: Any, log_d: Any, theta: Array) -> Any:
    """What of the loss depends on the sizes."""
    _, a, alpha, b, beta = theta
    return a * np.exp(-alpha * log_n) + b * np.exp(-beta * log_d)


def _isocost(
    cost: Callable[[float, float], float], budget: float, u_range: tuple[float, float], v_range: tuple[float, float]
) -> tuple[Array, Array]:
    """Sizes that cost the budget: logarithms of ``N`` and of ``D``."""

    def over(v: float, u: float) -> float:
        return float(np.log(cost(float(np.exp(u)), float(np.exp(v))) / budget))

    grid = [u for u in np.linspace(*u_range, 241) if over(v_range[0], u) < 0 < over(v_range[1], u)]
    return np.array(grid), np.array([brentq(over, *v_range, args=(u,), xtol=1e-12) for u in grid])
