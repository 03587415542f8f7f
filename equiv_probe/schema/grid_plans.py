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
    """The plan to take where nobody chose one.

    Args:
        usual: what is taken without grids, or with grids that are interpolated.
        schema: representations.
        inputs: of one call, ``(*S)`` by name: their shapes count.
        outputs: likewise, as far as they are known.
        subset: how many of the rotations; None for all.

    Returns:
        ``usual``, or the rotations of the cube; on boxes that are no cubes, the half turns.
    """
    exact = exact_grids(schema, inputs, outputs)
    if not exact:
        return usual
    cubes = all(_is_cube(rep, value) for _, rep, value in exact)
    return RotationPlan("cube" if cubes else "box", improper=usual.improper, seed=usual.seed, subset=subset)


def require_fit(
    plan: RotationPlan,
    schema: Schema,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | None = None,
    *,
    alone: bool = False,
) -> None:
    """Raise unless the plan's rotations can rotate the schema's grids.

    Args:
        plan: the plan.
        schema: representations.
        inputs: of one call, ``(*S)`` by name.
        outputs: likewise, as far as they are known.
        alone: copies are rotated one at a time, so that their shapes may differ.

    Raises:
        EquivProbeError: rotations other than the cube's for a grid without interpolation, or quarter turns of a box
            that is no cube.
    """
    for name, rep, value in exact_grids(schema, inputs, outputs):
        if plan.design not in FIXED:
            raise EquivProbeError(
                f"the plan {plan}, and {name!r}, an ep.{rep} without interpolation",
                "the rotations of the cube, which take voxels to voxels",
                'ep.RotationPlan("cube"), or declare ep.grid(interpolation="linear")',
            )
        if plan.design == "box":
            continue
        if not rep.has_equal_spacing:
            raise EquivProbeError(
                f"the plan {plan}, and {name!r} with spacing {rep.spacing}",
                "half turns, which keep every axis",
                'ep.RotationPlan("box"), or ep.grid(..., interpolation="linear")',
            )
        if isinstance(value, torch.Tensor) and not alone and not _is_cube(rep, value):
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


def _is_cube(rep: Grid, value: Any) -> bool:
    """Whether quarter turns keep the shape; of what is not known yet, yes."""
    known = isinstance(value, torch.Tensor) and value.ndim >= 3
    return rep.has_equal_spacing and (not known or len(set(value.shape[-3:])) == 1)
