"""Resamples of runs, as weights and as data: what might have been measured instead.

``"residuals"`` keeps the sizes of the runs, which were chosen and are not random, and draws the scatter about the law
anew. Few runs have few degrees of freedom: the scatter is scaled up by ``√(n / ν)``, and each resample by ``√(ν /
χ²_ν)``, which gives a straight line's fit the intervals of Student's t instead of too narrow ones. ``"wild"`` keeps
every residual where it is, enlarged by what the fit took from it, and draws its sign: so the scatter may depend on
size. ``"runs"`` draws whole runs, which asks least and needs many of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from equiv_probe.scaling.solver import Array

Bootstrap = Literal["residuals", "wild", "runs"]
NEARLY = 0.1
"""What a fit leaves of a run is not enlarged by more than the inverse."""


@dataclass(frozen=True)
class Resamples:
    """What to fit instead of the data.

    Attributes:
        log_y: ``(B, n)``.
        weights: ``(B, n)``.
    """

    log_y: Array
    weights: Array


def labels(columns: list[Any], count: int) -> NDArray[np.intp]:
    """Numbers for the groups that rows fall into, ``(n,)``, from any columns.

    >>> labels([["a", "b", "a"], [1, 1, 2]], 3).tolist()
    [0, 1, 2]
    """
    known: dict[tuple[Any, ...], int] = {}
    rows = zip(*columns, strict=True) if columns else [()] * count
    return np.array([known.setdefault(tuple(row), len(known)) for row in rows], dtype=np.intp)


def left_out_residuals(residuals: Array, hat: Array, groups: NDArray[np.intp]) -> Array:
    """What the residuals of groups would be of a fit without them: ``(1 − H_gg)⁻¹ r_g``, ``(n,)``.

    A fit goes where few runs pull it, and leaves them little: without this, runs at the ends of the range would seem to
    scatter least (MacKinnon and White, J. Econometrics 29 (1985) 305; for groups Bell and McCaffrey, 2002).

    Args:
        residuals: ``(n,)``.
        hat: what the fit makes of a change of the data, ``(n, n)``.
        groups: ``(n,)``.
    """
    found = residuals.copy()
    for group in range(int(groups.max()) + 1):
        own = np.flatnonzero(groups == group)
        values, vectors = np.linalg.eigh((hat[np.ix_(own, own)] + hat[np.ix_(own, own)].T) / 2)
        found[own] = vectors @ ((vectors.T @ residuals[own]) / np.maximum(1 - values, NEARLY))
    return found


def of_residuals(
    fitted: Array, residuals: Array, parameters: int, *, groups: NDArray[np.intp] | None, resamples: int, seed: int
) -> Resamples:
    """The fitted law with residuals drawn anew.

    Args:
        fitted: logarithm of the law at the runs, ``(n,)``.
        residuals: ``(n,)``.
        parameters: that were fitted.
        groups: rows whose residuals belong together, such as steps of one run: these keep their shape and are
            multiplied by one sign (a wild bootstrap), and are :func:`left_out_residuals` already; None draws every
            residual anew from all of them.
        resamples: how many.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    n = len(residuals)
    units = n if groups is None else int(groups.max()) + 1
    free = units - parameters
    tails = np.sqrt(free / generator.chisquare(free, (resamples, 1)))
    if groups is None:
        # Not about their mean: Huber's is the mean that a robust fit has set to zero, and outliers move the other.
        drawn = np.sqrt(units / free) * residuals[generator.integers(0, n, (resamples, n))]
    else:
        drawn = residuals * generator.choice(np.array([-1.0, 1.0]), (resamples, units))[:, groups]
    return Resamples(fitted + tails * drawn, np.ones((resamples, n)))


def of_runs(log_y: Array, strata: NDArray[np.intp], groups: NDArray[np.intp], resamples: int, seed: int) -> Resamples:
    """Runs drawn with replacement, as many from each stratum as it has.

    Args:
        log_y: ``(n,)``.
        strata: of every row, ``(n,)``.
        groups: rows that are drawn together, ``(n,)``; a group lies within one stratum.
        resamples: how many.
        seed: of the draws.

    Raises:
        EquivProbeError: a group lies in several strata, or no stratum has two groups.
    """
    generator = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    homes = [set(strata[groups == group].tolist()) for group in range(count)]
    if any(len(home) > 1 for home in homes):
        raise EquivProbeError("rows that are drawn together but lie in different strata", "groups within strata")
    of_group = np.array([home.pop() for home in homes])
    times = np.zeros((resamples, count))
    for stratum in range(int(strata.max()) + 1):
        members = np.flatnonzero(of_group == stratum)
        times[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    if count == int(strata.max()) + 1:
        raise EquivProbeError(
            "one run in every stratum, of which no other can be drawn", "two or more", 'bootstrap="residuals"'
        )
    return Resamples(np.broadcast_to(log_y, (resamples, len(log_y))), times[:, groups])
