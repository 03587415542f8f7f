"""Tensors that say where their voxels are (MONAI's ``MetaTensor``): after a rotation they say so again, and rightly.

The affine matrix A takes the indices of a voxel to its place in the world. A rotated grid holds at the indices ``i'``
what the grid itself held at ``T i'``, so that its affine matrix is ``A T``: the image stays where it is in the world.
That is the convention of MONAI's own transforms.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.grids import Grid

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.representation import Representation


def plain(value: Any) -> Any:
    """A tensor without what a class of its own says about it; anything else as it is."""
    return value.as_subclass(torch.Tensor) if _has_a_class_of_its_own(value) else value


def with_affine(moved: Tensor, value: Any, rep: Representation, rotation: Tensor) -> Any:
    """A rotated grid as a tensor of the class that it had, with its meta data and the affine matrix that it has now.

    What says nothing about its voxels, or is no grid, stays a plain tensor.

    Args:
        moved: the rotated grid, plain.
        value: the grid before.
        rep: what it is.
        rotation: g, ``(3, 3)``.

    Raises:
        EquivProbeError: the affine matrix is no ``(..., 4, 4)``, or there are operations that were not applied yet.
    """
    affine = getattr(value, "affine", None) if _has_a_class_of_its_own(value) else None
    if affine is None or not isinstance(rep, Grid):
        return moved
    if getattr(value, "pending_operations", None):
        found = f"a {type(value).__name__} with operations that are still pending (lazy transforms)"
        fix = "Compose(..., lazy=False) before RandomRotation"
        raise EquivProbeError(found, "voxels that they were applied to", fix)
    affine = torch.as_tensor(affine)
    if affine.shape[-2:] != (4, 4):
        found = f"a grid with an affine matrix of shape {tuple(affine.shape)}"
        raise EquivProbeError(found, "(4, 4)", "image.as_tensor()")
    kept = moved.as_subclass(type(value))
    kept.__dict__.update(copy.deepcopy(value.__dict__))
    kept.affine = affine @ index_map(rep, rotation, value.shape[-3:], moved.shape[-3:]).to(affine)
    return kept


def index_map(rep: Grid, rotation: Tensor, before: torch.Size, after: torch.Size) -> Tensor:
    """T, ``(4, 4)`` float64: from the indices of a rotated grid of shape ``after`` to those of the grid itself."""
    order = ["xyz".index(axis) for axis in rep.axes]
    spacing = torch.tensor(rep.spacing, dtype=torch.float64)[order]
    back = rotation.double().cpu()[order][:, order].mT * spacing / spacing[:, None]
    middle, now = ((torch.tensor(shape, dtype=torch.float64) - 1) / 2 for shape in (before, after))
    found = torch.eye(4, dtype=torch.float64)
    found[:3, :3], found[:3, 3] = back, middle - back @ now
    return found


def _has_a_class_of_its_own(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and type(value) not in {torch.Tensor, torch.nn.Parameter}
