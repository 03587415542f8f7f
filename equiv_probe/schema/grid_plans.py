"""Which rotation plans fit a schema with voxel grids: found out from plan, schema and shapes, without the device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.grids import Grid
from equiv_probe.representations.voxel_rotations import USE_BOX
from equiv_probe.rotations.plan import FIXED, RotationPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equiv_probe.schema.schema import Schema


def exact_grids(
    schema: Schema, inputs: Mapping[str, Any] | None = None, outputs: Mapping[str, Any] | None = None
) -> list[tuple[str, Grid, Any]]:
    """The inputs and outputs that only the cube's rotations rotate: name, representation, and the tensor if known."""
    sides = (schema.inputs, inputs or {}), (schema.outputs, outputs or {})
    return [
        (name, rep, tensors.get(name))
        for representations, tensors in sides
        for name, rep in representations.items()
        if isinstance(rep, Grid) and rep.is_exact
    ]


def fitting_plan(
    usual: RotationPlan,
    schema: Schema,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | None = None,
    subset: int | None = None,
) -> RotationPlan:
    """The plan to take where nobody chose one, for inputs (and outputs, as far as they are known) of these shapes.

    Returns:
        ``usual``; with grids that are not interpolated the rotations of the cube (or a ``subset`` of them), on boxes
        with two equal sides the eight that keep them, and on other boxes the rotations by 180°.
    """
    exact = exact_grids(schema, inputs, outputs)
    if not exact:
        return usual
    free = {axis for axis in "xyz" if all(_is_square(rep, value, axis) for _, rep, value in exact)}
    design = "cube" if len(free) == 3 else f"box-{free.pop()}" if free else "box"
    return RotationPlan(design, improper=usual.improper, seed=usual.seed, subset=subset)


def require_fit(
    plan: RotationPlan,
    schema: Schema,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | None = None,
    *,
    alone: bool = False,
) -> None:
    """Raise unless the plan's rotations can rotate the schema's grids.

    Copies that are rotated ``alone``, one at a time, may differ in shape.

    Raises:
        EquivProbeError: rotations other than the cube's for a grid without interpolation, or rotations by 90° of a box
            across whose axis the sides are not equal.
    """
    for name, rep, value in exact_grids(schema, inputs, outputs):
        if plan.design not in FIXED:
            raise EquivProbeError(
                f"the plan {plan}, and {name!r}, an ep.{rep} without interpolation",
                "the rotations of the cube, which take voxels to voxels",
                'ep.RotationPlan("cube"), or declare ep.grid(interpolation="linear")',
            )
        axes = {"cube": "xyz", "box": ""}.get(
            plan.design, plan.design[-1]
        )  # axes about which there are rotations by 90°
        if not all(_is_square(rep, None, axis) for axis in axes):
            raise EquivProbeError(
                f"the plan {plan}, and {name!r} with spacing {rep.spacing}",
                "rotations by 180°, which keep every axis",
                'ep.RotationPlan("box"), or ep.grid(..., interpolation="linear")',
            )
        if isinstance(value, torch.Tensor) and not alone and not all(_is_square(rep, value, axis) for axis in axes):
            raise EquivProbeError(
                f"the plan {plan}, and {name!r} of shape {tuple(value.shape)}, whose copies would differ in shape",
                "rotations that keep the shape, where copies or structures share an array",
                USE_BOX,
            )


def one_of(plan: RotationPlan) -> RotationPlan:
    """A plan that draws a single one of another plan's rotations."""
    if plan.is_rotated:
        return replace(plan, design="haar", replicates=1)
    return replace(plan, replicates=None, subset=1)


def _is_square(rep: Grid, value: Any, axis: str) -> bool:
    """Whether rotations by 90° about an axis keep the box; as far as its shape is known."""
    across = [place for place, own in enumerate(rep.axes) if own != axis]
    first, second = (rep.spacing["xyz".index(rep.axes[place])] for place in across)
    known = isinstance(value, torch.Tensor) and value.ndim >= 3
    is_square = not known or value.shape[across[0] - 3] == value.shape[across[1] - 3]
    return is_square and abs(first - second) <= 1e-9 * max(first, second)
