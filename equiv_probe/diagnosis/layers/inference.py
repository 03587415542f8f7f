"""Which representation explains an activation's orbit, and, where none does, whether a fitted orthogonal ρ(g) would."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.layers.carried import from_degrees, highest_degree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from equiv_probe.diagnosis.layers.carried import Carried

BETTER = 0.7
"""A representation that is less simple must leave at most this part of the squared error."""
FAR_BETTER = 0.01
"""Likewise what is not a grid, of a tensor with three axes of voxels inside a model of grids."""
MUCH_BETTER = 0.25
"""Likewise one that was put together from blocks, of which there are many."""
LINEAR = 0.3
"""Relative error above which no representation is said to explain an orbit."""
WIDEST = 4096
"""Columns up to which layouts are looked for."""
WIDEST_FIT = 512
"""Columns up to which matrices are fitted."""
FITS = 4
"""Group elements for which ρ is fitted."""


def best_of(
    candidates: Sequence[tuple[Carried, float]], rounding: float, better: float = BETTER
) -> tuple[Carried, float]:
    """The simplest that is not much worse than another.

    Args:
        candidates: with the squared errors that they leave, the simplest first.
        rounding: squared errors up to this are none.
        better: part of the squared error that one that is less simple may leave.
    """
    chosen = candidates[0]
    for one in candidates[1:]:
        if chosen[1] > rounding and one[1] < better * chosen[1]:
            chosen = one
    return chosen


def layouts(values: Tensor, rotations: Tensor, rounding: float) -> list[Carried]:
    """The best rows of irreducible blocks along the last axis, and along the one before it.

    Args:
        values: samples of an activation, ``(K, R, P, F)``; P is 1 where there is but one axis.
        rotations: at which, ``(K, 3, 3)``.
        rounding: mean square that is none.
    """
    found = []
    for axis in (-1, -2):
        rows = values.movedim(axis, -1)
        if not 3 <= rows.shape[-1] <= WIDEST or highest_degree() < 1:
            continue
        for cycled in (False, True):
            degrees = _parsed(rows.flatten(1, -2), rotations, cycled=cycled, rounding=rounding)
            carried = from_degrees(degrees, axis, cycled=cycled)
            if not carried.is_scalar:
                found.append(carried)
    return found


def _parsed(rows: Tensor, rotations: Tensor, *, cycled: bool, rounding: float) -> list[int]:
    """Degrees of blocks along the columns of ``(K, R, F)``, by dynamic programming over where they begin.

    The sum of what all blocks leave is the least; of equal ones scalars are preferred.
    """
    columns = rows.shape[-1]
    costs = [rows.double().var(0).mean(0).clamp_min(rounding)]
    for degree in range(1, highest_degree() + 1):
        width = 2 * degree + 1
        if width > columns:
            break
        carried = from_degrees([degree], -1, cycled=cycled)
        back = carried.rotate_back(rows.unfold(-1, width, 1), rotations)
        costs.append(back.double().var(0).mean(0).sum(-1).clamp_min(width * rounding))
    least, taken = [0.0], []
    for end in range(1, columns + 1):
        options = [
            (least[end - (2 * degree + 1)] + float(cost[end - (2 * degree + 1)]) * (1 + 1e-3 * degree), degree)
            for degree, cost in enumerate(costs)
            if end >= 2 * degree + 1
        ]
        value, degree = min(options)
        least.append(value)
        taken.append(degree)
    degrees, end = [], columns
    while end:
        degrees.append(taken[end - 1])
        end -= 2 * degrees[-1] + 1
    return degrees[::-1]


@dataclass(frozen=True)
class Fitted:
    """How well fitted orthogonal matrices explain an orbit, at rotations that the fit did not see.

    Attributes:
        axis: on which they act.
        part: of the squared error as invariant features that they explain; below zero where they make it worse.
        enough: whether there were more rows than columns, without which nothing follows.
    """

    axis: int
    part: float
    enough: bool


def fitted(values: Tensor, rotations: Tensor) -> Fitted | None:
    """Fit ρ(r) by least squares over pairs of rotations ``h, r h``, and judge it by pairs that were held out.

    ``A(r h) ≈ A(h) ρ(r)ᵀ`` with ρ(r) orthogonal is Procrustes' problem. In a coset of a group, each r pairs all
    rotations. Noise is fitted well, and explains nothing of what is held out.

    Args:
        values: samples of an activation, ``(K, R, P, F)``.
        rotations: at which, ``(K, 3, 3)``, a coset of a group as far as they are there.
    """
    best: Fitted | None = None
    pairings = _pairings(rotations)
    for axis in (-1, -2):
        rows = values.movedim(axis, -1).flatten(1, -2).double()
        columns = rows.shape[-1]
        if not 2 <= columns <= WIDEST_FIT or not pairings:
            continue
        left = whole = 0.0
        rank, seen = 0, 0
        for train, test in pairings:
            before, after = rows[train[0]].flatten(0, 1), rows[train[1]].flatten(0, 1)
            u, s, v = torch.linalg.svd(before.mT @ after)
            rank, seen = max(rank, int((s > 1e-9 * s[0]).sum())), len(before)
            left += float((rows[test[1]] - rows[test[0]] @ (u @ v)).square().sum())
            whole += float((rows[test[1]] - rows[test[0]]).square().sum())
        part = 1 - left / whole if whole > 0 else math.nan
        if best is None or part > best.part:
            best = Fitted(axis, part, seen > 2 * rank)
    return best


def _pairings(rotations: Tensor) -> list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """For some r the places of ``h`` and ``r h``, those to fit and those to test; cycles are not cut."""
    found = []
    for other in range(1, len(rotations)):
        element = rotations[other] @ rotations[0].mT
        apart = (element @ rotations)[:, None] - rotations[None]
        distance, partner = apart.square().sum((-2, -1)).min(1)
        there = distance < 1e-6
        cycles, left = [], {int(place) for place in there.nonzero()[:, 0]}
        while left:
            here, cycle = min(left), []
            while here in left:
                left.remove(here)
                cycle.append((here, int(partner[here])))
                here = int(partner[here])
            cycles.append(cycle)
        if len(cycles) < 2:
            continue
        sides = [torch.tensor([pair for cycle in cycles[side::2] for pair in cycle]).mT for side in (0, 1)]
        found.append(((sides[0][0], sides[0][1]), (sides[1][0], sides[1][1])))
        if len(found) == FITS:
            break
    return found


def unexplained(error: float) -> bool:
    """Whether a relative error is so large that its representation explains nothing."""
    return not error < LINEAR
