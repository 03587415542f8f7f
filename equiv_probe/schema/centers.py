"""Centres of rotation: centroids of structures, and the middle of a box of voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.grids import Grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.schema.schema import Schema


def centroids(points: Tensor, index: Tensor, count: int) -> Tensor:
    """Mean of the points ``(N, 3)`` of each structure, ``(count, 3)``; zero where there are none."""
    sums = points.new_zeros(count, 4)
    sums.index_add_(0, index, torch.cat([points, points.new_ones(len(points), 1)], 1))
    return sums[:, :3] / sums[:, 3:].clamp_min(1)


def dense_centroids(points: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over the atoms of points ``(N, 3)`` or ``(B, N, ..., 3)``, with axes of length one in their places.

    Masks ``(N,)``, ``(B, N)`` or ``(B, N, A)`` are true where there is an atom; padding may hold anything, also NaN.
    """
    atoms = tuple(range(min(1, points.ndim - 2), points.ndim - 1))
    if mask is None:
        return points.mean(atoms, keepdim=True)
    weight = mask.to(points).reshape(*mask.shape, *(1,) * (points.ndim - mask.ndim)).expand(*points.shape[:-1], 1)
    held = torch.where(weight != 0, points, 0.0)
    return (held * weight).sum(atoms, keepdim=True) / weight.sum(atoms, keepdim=True).clamp_min(1)


def require_common_center(schema: Schema) -> None:
    """Raise EquivProbeError for points that would rotate about their centroid beside grids, which do about their box's.

    The atoms would be elsewhere in the box once both were rotated.
    """
    if any(rep.is_whole for rep in schema.inputs.values()):
        raise EquivProbeError(
            "points beside a voxel grid among the inputs, rotated about their centroid",
            "the centre of the box, about which the grid rotates, so that both stay together",
            'center="origin" for points that are given from the centre of the box, "box" for those that are given from '
            "its first sample, or a tensor: where it is",
        )


def box_center(schema: Schema, inputs: Mapping[str, Any]) -> Tensor:
    """The middle of the box of the first grid among the inputs, as seen from its first sample, ``(3,)``.

    Raises:
        EquivProbeError: there is no grid.
    """
    for name, rep in schema.inputs.items():
        if isinstance(rep, Grid) and isinstance(inputs.get(name), torch.Tensor):
            return rep.middle(inputs[name].shape[-3:])
    raise EquivProbeError(
        'center="box" without a grid among the inputs', "a grid, whose middle is the centre", "center=torch.tensor(...)"
    )
