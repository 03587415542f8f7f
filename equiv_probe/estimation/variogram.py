r"""How two predictions of one orbit differ, against the angle and the axis of the rotation that lies between them.

For rotations ``g`` and ``g' = r g``, ``r`` rotates about an axis of the frame in which the model sees its inputs:

    D(θ) = ½ E ‖h_g − h_{g'}‖²  over pairs with r of angle θ  =  Σ_{l≥1} P_l (1 − χ_l(θ)/(2l+1)),

with the angular spectrum ``P_l`` of :mod:`equiv_probe.estimation.spectrum`: nothing at 0, about ``L_equiv`` at large
angles. Against the axis of ``r`` it shows whether the frame's directions are equivalent: a model that treats z
differently, but knows all rotations about it, has nothing at the pole. Norms are means over the output's components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from equiv_probe.rotations.haar import to_quaternions

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.estimation.orbit import Orbit

ANGLE_EDGES = tuple(range(0, 181, 20))
"""Edges of the bins of the angle, in degrees."""
BANDS, SECTORS = 4, 12
"""Cells of equal area of the upper half of the sphere: bands in the height z, sectors in the longitude."""
MOST_REPLICATES = 8
"""Pairs are as many as the square of the rotations: beyond this many replicates the first ones do."""


@dataclass(frozen=True)
class Variogram:
    """Sums of ``½ ‖h_g − h_{g'}‖²`` over pairs from different replicates, and the number of pairs; ``/`` gives D.

    Shapes: ``by_angle`` and ``pairs_by_angle`` ``(9,)``, in bins of 20°; ``by_axis`` and ``pairs_by_axis`` ``(48,)``,
    12 sectors of longitude within each of 4 bands of height, from the equator up.
    """

    by_angle: Tensor
    pairs_by_angle: Tensor
    by_axis: Tensor
    pairs_by_axis: Tensor


@dataclass(frozen=True)
class Pairs:
    """Pairs of rotations of an orbit from different replicates, with their weights and the bins between them.

    Within a replicate the rotation has one of the design's few axes, seen from the structure: not any one at random.
    """

    first: Tensor
    second: Tensor
    weight: Tensor
    angle_bin: Tensor
    axis_bin: Tensor

    @classmethod
    def of(cls, orbit: Orbit) -> Pairs:
        """Of an orbit of proper rotations, two or more randomly rotated replicates; the same for all its outputs."""
        rotations = orbit.rotations[:MOST_REPLICATES]
        replicates, n = rotations.shape[:2]
        first, second = _apart(replicates, n)
        weights = n * orbit.weights.repeat(replicates)
        return cls(first, second, weights[first] * weights[second], *_bins(rotations.reshape(-1, 3, 3), first, second))


def variogram(orbit: Orbit, output: str, pairs: Pairs | None = None) -> Variogram:
    """Differences within an orbit by angle and by axis, unbiased within each bin.

    Args:
        orbit: kept, of a plan of proper rotations with at least two randomly rotated replicates.
        output: which of its outputs, ``(R, n, *S)``.
        pairs: of the orbit, where they are at hand already.

    Returns:
        The sums, in the output's units squared.
    """
    pairs = pairs or Pairs.of(orbit)
    values = orbit.kept(output)[:MOST_REPLICATES]
    flat = values.reshape(values.shape[0] * values.shape[1], -1)
    square = pairs.weight * (flat[pairs.first] - flat[pairs.second]).square().mean(-1) / 2

    def summed(bins: Tensor, count: int, what: Tensor) -> Tensor:
        return torch.zeros(count, dtype=torch.float64).index_add_(0, bins, what.double())

    angles, cells = len(ANGLE_EDGES) - 1, BANDS * SECTORS
    return Variogram(
        summed(pairs.angle_bin, angles, square),
        summed(pairs.angle_bin, angles, pairs.weight),
        summed(pairs.axis_bin, cells, square),
        summed(pairs.axis_bin, cells, pairs.weight),
    )


@lru_cache(maxsize=8)
def _apart(replicates: int, n: int) -> tuple[Tensor, Tensor]:
    """Places of the first and of the second rotation of each pair from different replicates, ``(P,)``."""
    of = torch.arange(replicates).repeat_interleave(n)
    first, second = torch.triu_indices(len(of), len(of), 1)
    apart = of[first] != of[second]
    return first[apart], second[apart]


def _bins(rotations: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Bin of the angle and cell of the axis of ``g₂ g₁⁻¹`` of each pair, of rotations ``(K, 3, 3)``."""
    # There are many more pairs than rotations: of g₂ g₁⁻¹ from the quaternions of all.
    quaternions = to_quaternions(rotations.double())
    one, other = quaternions[first], quaternions[second]
    vectors = one[:, :1] * other[:, 1:] - other[:, :1] * one[:, 1:] - torch.linalg.cross(other[:, 1:], one[:, 1:])
    sine = vectors.norm(dim=-1)
    angle = 2 * torch.atan2(sine, (one * other).sum(-1).abs())
    width = math.radians(ANGLE_EDGES[1] - ANGLE_EDGES[0])
    angle_bin = (angle / width).long().clamp(max=len(ANGLE_EDGES) - 2)
    # Rotating by θ about an axis and by −θ about its opposite is the same, and D does not tell θ from −θ.
    axis = vectors * torch.where(vectors[:, 2:] < 0, -1.0, 1.0) / sine.clamp(min=1e-12)[:, None]
    band = (axis[:, 2] * BANDS).long().clamp(0, BANDS - 1)
    longitude = torch.atan2(axis[:, 1], axis[:, 0]) % (2 * math.pi)
    sector = (longitude / (2 * math.pi) * SECTORS).long().clamp(max=SECTORS - 1)
    return angle_bin, band * SECTORS + sector
