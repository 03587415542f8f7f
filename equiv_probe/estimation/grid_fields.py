"""What the channels of a broken grid could be instead: vectors that were taken for scalars, or in another order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.other_components import MOST, cover, is_explained
from equiv_probe.representations.representation import scalar, vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from equiv_probe.representations.grid_channels import Field
    from equiv_probe.representations.grids import Grid
    from equiv_probe.representations.representation import Representation


def other_fields(declared: Grid, raw: Tensor, rotations: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Other fields for raw grids ``(K, ..., C, D, H, W)``, in words, and the grids rotated back accordingly.

    Args:
        declared: without interpolation.
        raw: as the model gave them, at rotated inputs.
        rotations: of the cube, ``(K, 3, 3)``.
    """
    channels = raw.shape[-4]
    if not (declared.is_exact and declared.channel_axis) or channels > MOST:
        return
    found = replace(declared, fields=_cover(declared, raw, rotations))
    if found.fields and found != declared and (declared.fields or not found.channels.are_scalars):
        yield f"ep.{found}", found.rotate_back(raw, rotations)
    if channels % 3:
        return
    vectors = replace(declared, fields=((channels // 3, vector),))
    order = torch.arange(channels)
    for how, places in (
        ("with components z, y, x", order.view(-1, 3).flip(1).flatten()),
        ("with the x of all vectors before their y and z", order.view(3, -1).T.flatten()),
    ):
        back = vectors.rotate_back(raw.index_select(-4, places.to(raw.device)), rotations)
        yield f"ep.{vectors} {how}", back.index_select(-4, places.argsort().to(raw.device))


def _cover(declared: Grid, raw: Tensor, rotations: Tensor) -> tuple[Field, ...]:
    """Scalars and vectors, one after the other, that explain their channels; empty where nothing explains one."""

    def explains(rep: Representation, start: int, size: int) -> bool:
        back = replace(declared, fields=((1, rep),)).rotate_back(raw.narrow(-4, start, size), rotations)
        return is_explained(back)

    return cover(raw.shape[-4], ((scalar, 1), (vector, 3)), explains)
