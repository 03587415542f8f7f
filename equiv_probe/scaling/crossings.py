"""Where one of two curves is known to be the lower one, and where that changes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.scaling.estimates import Estimate
from equiv_probe.scaling.gap_result import Crossing, stretches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from equiv_probe.scaling.solver import Array


def known_signs(difference: Array, draws: Array, low: Array, high: Array, level: float) -> NDArray[np.int8]:
    """The sign of the difference where it is known: 0 where its interval holds 0, or chance may have made it.

    Chance is what the largest of all deviations does, in half lengths of the intervals, in ``level`` of the draws.
    In a stretch that nowhere goes beyond that the sign is not known.

    Args:
        difference: of the logarithms, ``(G,)``.
        draws: of it, ``(B, G)``.
        low: of its interval at each place, ``(G,)``.
        high: likewise.
        level: of the intervals.
    """
    half = np.maximum((high - low) / 2, 1e-300)
    farthest = float(np.quantile((np.abs(draws - difference) / half).max(1), level))
    signs = np.where(low > 0, 1, np.where(high < 0, -1, 0)).astype(np.int8)
    for start, stop, _ in stretches(signs):
        part = slice(start, stop + 1)
        if (np.abs(difference[part]) <= farthest * half[part]).all():
            signs[part] = 0
    return signs


def crossings_of(
    grid: Array, difference: Array, lower: NDArray[np.int8], *, curve: Array, names: tuple[str, str], known: bool
) -> list[Crossing]:
    """Changes from one model to the other; wiggles within a stretch where no difference is known are one or none."""
    parts = stretches(lower)
    resolved = [part for part in parts if part[2] != 0]
    found = [
        _crossing(grid, difference, curve, (before[1], after[0]), names[after[2] < 0], known=known)
        for before, after in itertools.pairwise(resolved)
        if before[2] != after[2]
    ]
    if resolved:  # at either end the mean curves may cross, and beyond no difference is known
        (start, _, first), (_, stop, last) = resolved[0], resolved[-1]
        end = len(grid) - 1
        if difference[0] * first < 0:
            found.insert(0, _crossing(grid, difference, curve, (0, start), names[first < 0], known=known))
        if difference[end] * last < 0:
            found.append(_crossing(grid, difference, curve, (stop, end), names[last > 0], known=known))
    return found


def _crossing(
    grid: Array, difference: Array, curve: Array, span: tuple[int, int], after: str, *, known: bool
) -> Crossing:
    """The crossing of the mean curves between two places: the middle one, if there are several."""
    start, stop = span
    signs = np.sign(difference[start : stop + 1])
    changes = start + np.flatnonzero(signs[:-1] * signs[1:] <= 0)
    left = int(changes[len(changes) // 2])
    step = difference[left + 1] - difference[left]
    part = 0.0 if step == 0 else float(-difference[left] / step)
    at = grid[left] + part * (grid[left + 1] - grid[left])
    # No known difference up to an end of the range: the crossing may lie beyond it.
    low = 0.0 if start == 0 else float(np.exp(grid[start]))
    high = np.inf if stop == len(grid) - 1 else float(np.exp(grid[stop]))
    place = Estimate(float(np.exp(at)), low, high) if known else Estimate(float(np.exp(at)))
    return Crossing(place, float(np.exp(np.interp(at, grid, curve))), after)
