"""How far predictions rotated back lie from the unrotated ones, against the angle of the rotation: pure functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from equiv_probe.rotations.haar import angles

if TYPE_CHECKING:
    from torch import Tensor

WIDTH = 20
"""Width of a bin, in degrees."""


def by_angle(squares: Tensor, rotations: Tensor, weights: Tensor, *, exact: bool = False) -> list[dict[str, float]]:
    """Root mean square against the angle of the rotation.

    Args:
        squares: mean squares of single rotations and structures, ``(K, U)``.
        rotations: those rotations, ``(K, 3, 3)``, or of each structure its own, ``(K, U, 3, 3)``.
        weights: of the rotations, ``(K,)``.
        exact: by whole degrees, for rotations of the cube, without the one that rotates nothing; otherwise in bins.

    Returns:
        Bins from ``low`` to ``high`` degrees, with how many rotations of a structure are in each as ``count``; a bin
        without any has the ``rms`` NaN. Nothing for improper rotations, which have no angle.
    """
    if bool((torch.linalg.det(rotations) < 0).any()):
        return []
    each = angles(rotations) if rotations.ndim == 4 else angles(rotations)[:, None].expand_as(squares)
    degrees = torch.rad2deg(each).flatten()
    values = squares.double().flatten()
    weight = weights.double()[:, None].expand_as(squares).flatten()
    width = 1 if exact else WIDTH
    # A right angle that rounding made less must not fall into another bin than its equals.
    place = degrees.round().long() if exact else ((degrees + 1e-6) / width).long().clamp(max=180 // width - 1)
    empty = torch.zeros(180 // width + exact, dtype=torch.float64)
    sums, of = (empty.index_add(0, place, x).tolist() for x in (weight * values, weight))
    counts = torch.bincount(place, minlength=len(empty)).tolist()
    return [
        {
            "low": float(width * k),
            "high": float(width * k if exact else width * (k + 1)),
            "rms": math.sqrt(a / b) if b else math.nan,
            "count": count,
        }
        for k, (a, b, count) in enumerate(zip(sums, of, counts, strict=True))
        if not exact or (count and k)
    ]
