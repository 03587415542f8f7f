"""The symmetry error of a model of voxel grids, as two numbers: what the cube's rotations see, and what all do.

>>> import torch, equiv_probe as ep
>>> _ = torch.manual_seed(0)
>>> model = torch.nn.Conv3d(1, 1, 3, padding=1, bias=False).double()
>>> schema = ep.Schema({"input": ep.grid()}, {"output": ep.grid()})
>>> found = ep.audit_grid(model, torch.rand(2, 1, 8, 8, 8).double(), schema, progress=False)
>>> found.cube.floor < 1e-28, found.rotations.floor > 1e-6
(True, True)
"""

from __future__ import annotations

import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.errors import EquivProbeError
from equiv_probe.orbit.rotated_model import RotatedModel
from equiv_probe.progress import progress as progress_bar
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe.schema.grid_plans import fitting_plan
from equiv_probe.schema.schema import named
from equiv_probe.voxels.grid_report import GridAudit
from equiv_probe.voxels.parts import FLOOR, Parts, evaluated, grids_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.representations.interpolation import Kind
    from equiv_probe.schema.schema import Schema


def audit_grid(
    model: Callable[[Any], Any],
    inputs: Any,
    schema: Schema | None = None,
    targets: Any = None,
    loss: AnyLoss | Mapping[str, AnyLoss] = "mse",
    *,
    plan: PlanLike | None = None,
    interpolation: Kind | None = None,
    center: str | Tensor = "origin",
    chunk: int = 8,
    progress: bool = True,
) -> GridAudit:
    """Measure a model of voxel grids over the cube's rotations, exactly, and over all, by interpolation.

    Args:
        model: inputs to outputs, tensors, tuples or dicts; a module is evaluated in eval mode.
        inputs: one structure, or a dense batch of any size.
        schema: representations; None infers them. Whether its grids interpolate does not matter here.
        targets: as for :func:`equiv_probe.decompose`; None for squared error without labels.
        loss: likewise. A callable sees zeros in the place of predictions outside of the ball, and counts them.
        plan: of the second number; None is four tetrahedral replicates, 48 rotations.
        interpolation: of the second number; None is the schema's own, or else ``"cubic"``.
        center: of rotation of points beside the grids or in their place; grids rotate about the centre of their box.
        chunk: structures in one pass.
        progress: show a bar in a terminal, lines in a log, once it takes longer than two seconds.

    Returns:
        Both numbers, which print with what they mean.

    Raises:
        EquivProbeError: no grid in the schema, a flat batch, one replicate, or targets and a loss that do not fit the
            model's output; all of this before the first rotation.
    """
    began = time.perf_counter()
    plan = rotation_plan(plan) or RotationPlan()
    if not plan.is_rotated:
        raise EquivProbeError(str(plan), "a plan of all rotations: those of the cube are the first number", "plan=None")
    if plan.R < 2:
        raise EquivProbeError(str(plan), "two replicates or more, for an estimate", "RotationPlan(..., replicates=4)")
    if schema is None:
        schema = RotatedModel(evaluated(model), inputs, None, center).schema
    parts = Parts.of(inputs, targets, schema, chunk)
    kinds = [rep.interpolation for rep in grids_of(parts.schema) if rep.interpolation]
    kind = interpolation or (kinds[0] if kinds else "cubic")
    exact, smooth = parts.declared(None), parts.declared(kind)
    whole = named(inputs, list(exact.inputs))
    first = RotatedModel(evaluated(model, precisions=parts.precisions), parts.inputs[0], exact, center)
    cube_plan = fitting_plan(plan, exact, whole, first.identity)
    parts.require_fit(first, loss)
    evaluations = len(parts.inputs) * (cube_plan.size + plan.size + 2 * (FLOOR + 2))
    with progress_bar(evaluations, "rotating grids", shown=progress) as advance:
        predict = evaluated(model, lambda: advance(1), parts.precisions)
        cube, at_right_angles = parts.decompose(predict, exact, cube_plan, center, loss)
        rotations, at_angles = parts.decompose(predict, smooth, plan, center, loss)
    return GridAudit(
        cube=cube,
        rotations=rotations,
        cube_plan=cube_plan,
        plan=plan,
        interpolation=kind,
        model=type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", "model"),
        structures=parts.structures,
        seconds=time.perf_counter() - began,
        by_angle={"cube": at_right_angles, "rotations": at_angles},
        protocol={
            "precision": ", ".join(sorted(str(one).removeprefix("torch.") for one in parts.precisions)),
            "equiv-probe": metadata.version("equiv-probe"),
            "torch": torch.__version__,
        },
    )
