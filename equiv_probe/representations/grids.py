"""Fields on voxel grids: ``(*B, C, D, H, W)``, rotated about the centre of the box.

The rotated field is ``F'(p) = ρ(g) F(g⁻¹ p)``: the values move, and channels that are vectors rotate as they go. The
rotations of the cube take voxels to voxels and are exact; any other needs values between the voxels.

>>> import torch
>>> density = torch.arange(8.0).reshape(1, 2, 2, 2)
>>> quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # about z
>>> torch.equal(grid().rotate(density, quarter), density.rot90(1, (1, 2)))
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.grid_channels import SCALAR, Channels, field_of
from equiv_probe.representations.interface import ANY, Representation
from equiv_probe.representations.interpolation import interpolate, places
from equiv_probe.representations.registry import maker
from equiv_probe.representations.voxel_rotations import rotate_voxels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from equiv_probe.representations.grid_channels import Field
    from equiv_probe.representations.interpolation import Kind


@dataclass(frozen=True)
class Grid(Representation):
    """Fields sampled on a box of voxels; made by :func:`grid`."""

    fields: tuple[Field, ...] = ()
    axes: str = "xyz"
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    centred: Literal["voxel", "corner"] = "voxel"
    interpolation: Kind | None = None
    ball: bool = False
    channel_axis: bool = True
    is_whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "event_shape", (ANY,) * (4 if self.channel_axis else 3))

    @property
    def is_exact(self) -> bool:
        """Whether only the cube's rotations rotate it, which move voxels onto voxels."""
        return self.interpolation is None

    @property
    def has_equal_spacing(self) -> bool:
        """Whether its voxels are cubes."""
        return max(self.spacing) - min(self.spacing) <= 1e-9 * max(self.spacing)

    @property
    def interpolates(self) -> bool:
        """Whether rotating it costs precision."""
        return not self.is_exact

    @property
    def channels(self) -> Channels:
        """What the channels are: a representation of them alone, for what does not depend on where the voxels go."""
        return Channels(self.fields)

    @property
    def norm_axes(self) -> int:
        """Those of the channels."""
        return self.channels.norm_axes

    def moves(self, values: Tensor) -> bool:
        """Always: whole numbers, such as classes and masks, rotate with their voxels."""
        del values
        return True

    @property
    def _order(self) -> tuple[int, ...]:
        """The Cartesian axis of each array axis."""
        return tuple("xyz".index(axis) for axis in self.axes)

    def check(self, values: Tensor) -> None:
        """Raise EquivProbeError unless these are grids with as many channels as the fields have, of numbers that fit.

        Whole numbers can be moved from voxel to voxel, but not interpolated, and are components of no vector.
        """
        if values.ndim < len(self.event_shape):
            raise EquivProbeError(
                f"a tensor of shape {tuple(values.shape)} declared as {self}",
                "trailing axes (channels, D, H, W)" if self.channel_axis else "trailing axes (D, H, W)",
                "add the axis of channels, values.unsqueeze(-4), or declare ep.grid(channel_axis=False)",
            )
        if not (values.is_floating_point() or (self.is_exact and self.channels.are_scalars)):
            raise EquivProbeError(
                f"{values.dtype} values declared as {self}",
                "floating values; whole numbers only as scalars, without interpolation",
                "values.float(), or ep.grid()",
            )
        if self.channel_axis and self.channels.count not in {None, values.shape[-4]}:
            parts = " + ".join(f"{count} × {rep} of {math.prod(rep.event_shape)}" for count, rep in self.fields)
            raise EquivProbeError(
                f"a grid of {values.shape[-4]} channels declared as {self}",
                f"{parts} = {self.channels.count} channels, on the fourth axis from the end",
                "ep.grid((5, ep.scalar), (2, ep.vector)) for 5 + 2·3 = 11 channels, or ep.grid() for scalars",
            )

    def matrix(self, rotation: Tensor) -> Tensor:
        """How the channels of one voxel rotate, ``(*B, C, C)``."""
        return self.channels.matrix(rotation)

    def coordinates(
        self,
        shape: Sequence[int],
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Where the samples are about the centre of the box, x, y, z in the spacing's unit, ``(D, H, W, 3)``."""
        lines = [
            (torch.arange(n, device=device, dtype=dtype) - (n - 1) / 2) * self.spacing[axis]
            for n, axis in zip(shape, self._order, strict=True)
        ]
        of_axis = dict(zip(self._order, torch.meshgrid(*lines, indexing="ij"), strict=True))
        return torch.stack([of_axis[axis] for axis in range(3)], -1)

    def middle(self, shape: Sequence[int]) -> Tensor:
        """The middle of the box as seen from its first sample: x, y, z in the spacing's unit, ``(3,)`` float64."""
        lengths = {axis: (n - 1) / 2 * self.spacing[axis] for n, axis in zip(shape, self._order, strict=True)}
        return torch.tensor([lengths[axis] for axis in range(3)], dtype=torch.float64)

    def half_lengths(self, shape: Sequence[int]) -> list[float]:
        """Half of the box along each array axis: its faces are half a voxel beyond the samples, or on them."""
        beyond = 0 if self.centred == "voxel" else 1
        return [(n - beyond) * self.spacing[axis] / 2 for n, axis in zip(shape, self._order, strict=True)]

    def within(self, values: Tensor) -> Tensor:
        """The values, zero where they do not count: outside of the ball, if there is one."""
        counted = self.counted(values)
        return values if counted is None else torch.where(counted, values, values.new_zeros(()))

    def counted(self, values: Tensor) -> Tensor | None:
        """Which voxels count, ``(D, H, W)``; None if all do."""
        return _ball(self, tuple(values.shape[-3:]), values.device) if self.ball else None

    def _apply(self, values: Tensor, rotation: Tensor, center: Tensor | None, *, inverse: bool) -> Tensor:
        del center  # grids rotate about the centre of their box
        self.check(values)
        if not self.channel_axis:
            with_axis = replace(self, channel_axis=True)
            return with_axis._apply(values.unsqueeze(-4), rotation, None, inverse=inverse).squeeze(-4)
        batch = self._batch_axes(values, rotation)
        g = rotation.mT if inverse else rotation
        lead = torch.Size(np.broadcast_shapes(rotation.shape[:-2], values.shape[:batch]))
        own = values.shape[batch:]
        copies = values.expand(*lead, *own).reshape(lead.numel(), own[:-3].numel(), *own[-3:])
        rotated = self._moved(copies, g.expand(*lead, 3, 3).reshape(-1, 3, 3))
        rotated = rotated.reshape(*lead, *own[:-3], *rotated.shape[-3:])
        return self.within(self.channels.rotate(rotated, g)).to(values.dtype)

    def _moved(self, values: Tensor, rotations: Tensor) -> Tensor:
        """Values ``(K, M, D, H, W)`` carried to their new places, channels as they were."""
        order = self._order
        rows = torch.stack([rotations[:, axis] for axis in order], 1)
        own = torch.stack([rows[:, :, axis] for axis in order], 2)  # the rotation in the array's own axes
        if self.interpolation is None:
            return rotate_voxels(values, own, spacing=[self.spacing[axis] for axis in order])
        at, inside = places(
            own,
            values.shape[-3:],
            [self.spacing[axis] for axis in order],
            self.half_lengths(values.shape[-3:]),
            values.device,
        )
        floating = values.to(torch.promote_types(values.dtype, torch.float32))
        found = interpolate(floating, at, self.interpolation)
        return found if self.ball else torch.where(inside[:, None], found, found.new_zeros(()))

    def __str__(self) -> str:
        options = [str(self.channels)] if self.fields else []
        options += [f'axes="{self.axes}"'] if self.axes != "xyz" else []
        if self.spacing != (1.0, 1.0, 1.0):
            options.append(f"spacing={self.spacing[0] if len(set(self.spacing)) == 1 else self.spacing}")
        options += [f'centred="{self.centred}"'] if self.centred != "voxel" else []
        options += [f'interpolation="{self.interpolation}"'] if self.interpolation else []
        options += [f"ball={self.ball}"] if self.ball != (self.interpolation is not None) else []
        options += [] if self.channel_axis else ["channel_axis=False"]
        return f"grid({', '.join(options)})"


@cache
def _ball(grid: Grid, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """True in the ball that the box holds, ``(D, H, W)``."""
    radius = min(grid.half_lengths(shape))
    with torch.inference_mode(False):
        wide = torch.float32 if device.type == "mps" else torch.float64
        return grid.coordinates(shape, device, wide).square().sum(-1) <= radius**2 * (1 + 1e-6)


def filled_outside(
    values: Mapping[str, Tensor], outputs: Mapping[str, Representation], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rotated-back outputs, with the model's own, unrotated ones where those do not count, outside of a ball."""
    found = {}
    for name, value in values.items():
        counted = outputs[name].counted(value)
        found[name] = value if counted is None else torch.where(counted, value, own[name].to(value.dtype))
    return found


@maker
def grid(
    *fields: Representation | tuple[int, Representation],
    axes: str = "xyz",
    spacing: float | tuple[float, float, float] = 1.0,
    centred: Literal["voxel", "corner"] = "voxel",
    interpolation: Kind | None = None,
    ball: bool | None = None,
    channel_axis: bool = True,
) -> Grid:
    """Fields on a voxel grid, ``(..., C, D, H, W)``; the axis before the channels counts structures.

    Whole numbers and booleans, classes and masks, rotate like any scalars, without interpolation.

    Grids rotate about the centre of their box. For a model from atoms to grids that means ``center="origin"`` where the
    box lies about the origin, and ``center="centroid"`` where it is laid about the structure.

    Args:
        fields: what the channels are, in order: ``ep.vector`` for one vector in three channels, ``(5, ep.scalar)`` for
            five scalars. Nothing: all channels are scalars, any number.
        axes: which Cartesian axis each of D, H, W is: ``"xyz"`` as molecular codes have it, ``"zyx"`` as images do.
        spacing: of the samples in Å, one for all or ``(dx, dy, dz)``.
        centred: ``"voxel"``, samples in the middle of voxels, so that the box is n spacings long, or ``"corner"``,
            samples on the corners, n − 1 spacings.
        interpolation: None rotates by the 24 (48) rotations of the cube alone, exactly. ``"linear"`` and ``"cubic"``
            allow any rotation; half-precision values are then interpolated in float32.
        ball: count nothing outside of the ball that the box holds: rotated grids are zero there, and losses do not see
            it. None does so where there is interpolation, since the corners turn out of the box. Where a user's own
            loss is evaluated, in replays, the user's own prediction stands outside of the ball: it counts alike in all.
        channel_axis: False for one scalar field without an axis of channels: ``(..., D, H, W)``, where the axis before
            D counts structures.

    Raises:
        EquivProbeError: other axes, a length that is not positive, or a field that rotates about a centre.

    >>> import equiv_probe as ep
    >>> print(ep.grid((5, ep.scalar), ep.vector, spacing=0.5))
    grid((5, ep.scalar), ep.vector, spacing=0.5)
    """
    if sorted(axes) != ["x", "y", "z"]:
        raise EquivProbeError(f"axes={axes!r}", "x, y and z in some order", 'ep.grid(axes="zyx")')
    each = tuple(float(h) for h in spacing) if isinstance(spacing, (tuple, list)) else (float(spacing),) * 3
    if len(each) != 3 or not all(h > 0 and math.isfinite(h) for h in each):
        raise EquivProbeError(f"spacing={spacing!r}", "one positive length, or three", "spacing=(dx, dy, dz)")
    if centred not in {"voxel", "corner"}:
        raise EquivProbeError(f"centred={centred!r}", '"voxel" or "corner"', 'centred="voxel"')
    if interpolation not in {None, "linear", "cubic"}:
        raise EquivProbeError(f"interpolation={interpolation!r}", 'None, "linear" or "cubic"', 'interpolation="linear"')
    if not isinstance(channel_axis, bool):
        raise EquivProbeError(
            f"channel_axis={channel_axis!r}",
            "True, for channels before D, H and W, or False, for one scalar field without an axis of channels",
            "values.movedim(-1, -4), where the channels are behind",
        )
    found = tuple(field_of(one) for one in fields)
    if not channel_axis and found not in {(), ((1, SCALAR),)}:
        raise EquivProbeError(
            f"channel_axis=False and the fields {fields}", "one scalar field", "add the axis: values.unsqueeze(-4)"
        )
    make = partial(Grid, found, axes, (each[0], each[1], each[2]), centred, interpolation)
    return make(interpolation is not None if ball is None else ball, channel_axis)
