"""Which tensors are voxel grids, by their shapes: where that is certain, where it must be asked, and where not.

>>> import torch
>>> print(guess_grid("inputs", "x", torch.rand(2, 1, 8, 8, 8), by_name=None, points=[], boxes=[])[0])
grid()
>>> print(guess_grid("outputs", "density", torch.rand(2, 8, 8, 8), by_name=None, points=[], boxes=[(8, 8, 8)])[0])
grid(channel_axis=False)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.representations.grids import grid
from equiv_probe.schema.undeclared import UndeclaredError

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.representation import Representation


def guess_grid(
    role: str,
    name: str,
    value: Tensor,
    *,
    by_name: Representation | None,
    points: list[Tensor],
    boxes: list[tuple[int, ...]],
) -> tuple[Representation, str] | None:
    """A tensor's representation and the reason if it is a grid; None if it is none.

    Args:
        role: ``"inputs"`` or ``"outputs"``.
        name: of the tensor.
        value: the tensor.
        by_name: what its name usually means.
        points: the points among the inputs so far: beside them, a tensor of five axes may be anything.
        boxes: the shapes ``(D, H, W)`` of the grids among the inputs so far.

    Raises:
        EquivProbeError: it could be a grid and something else.
    """
    shape = tuple(value.shape)
    whole_numbers = not value.is_floating_point()
    beside_grids = bool(boxes) if role == "outputs" else not points
    named_otherwise = by_name is not None and by_name.fits(shape)
    if looks_like_grid(value):
        certain = beside_grids and (role == "inputs" or shape[2:] in boxes)
        if not certain and (whole_numbers or named_otherwise):
            return None
        if by_name is not None and by_name.event_shape and shape[1] == math.prod(by_name.event_shape):
            found = f"{role}[{name!r}], by its name ep.{by_name}, of shape {shape}: its channels could be components"
            field = "vector" if by_name.is_affine else by_name  # about the middle of the box places are arrows
            raise UndeclaredError(role, name, found, f"ep.grid(ep.{field})", more=", or ep.grid() for scalars")
        if not certain:
            raise unclear(role, name, shape, of_points=bool(points))
        reason = f"its shape {shape} is that of a voxel grid (B, C, D, H, W), every channel taken as a scalar"
        return grid(), f"{reason}; if three of them are a vector, say so: ep.grid((n, ep.scalar), ep.vector)"
    if len(shape) == 4 and shape[1:] in boxes:
        return grid(channel_axis=False), f"its shape {shape} is that of the grid {boxes[0]} without an axis of channels"
    coarse = (len(shape) == 5 and max(shape[2:]) > 1) or could_be_field(value)
    if role == "outputs" and boxes and coarse and not (whole_numbers or named_otherwise):
        raise unclear(role, name, shape)
    return None


def looks_like_grid(value: Tensor) -> bool:
    """Whether a tensor has the shape of a batch of voxel grids, ``(B, C, D, H, W)``."""
    return value.ndim == 5 and min(value.shape[2:]) >= 4


def could_be_field(value: Any) -> bool:
    """Whether a tensor has the shape of fields without an axis of channels, or without an axis of structures."""
    return isinstance(value, torch.Tensor) and value.ndim == 4 and min(value.shape[1:]) >= 4


def could_be_channels_last(value: Tensor) -> bool:
    """Whether a tensor has the shape of voxels with their channels behind, ``(B, D, H, W, C)``: two sides are equal."""
    sides = value.shape[1:4]
    return value.ndim == 5 and min(sides) >= 4 and len(set(sides)) < 3


def unclear(role: str, name: str, shape: tuple[int, ...], *, of_points: bool = False) -> UndeclaredError:
    """What could be a grid and could be something else, with the lines that say which."""
    other = "ep.fixed" if role == "inputs" else "ep.scalar"
    what, more = "ep.grid()", ""
    if len(shape) == 4:
        what, more = "ep.grid(channel_axis=False)", "; ep.grid() for the channels of one structure, (C, D, H, W)"
    if of_points:  # the default centre is right only for a box that is laid about the structure
        more += '; and center="origin" if the box of the grid lies about the origin of the points'
    found = f"{role}[{name!r}] of shape {shape}, which could be a voxel grid or {other}"
    return UndeclaredError(role, name, found, what, more=f" or {other}{more}")
