"""The orbit's slope: ``A = E_g Σ_a ‖∂_a h_g‖²`` along the three generators of rotation, which bounds ``L_equiv``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.orbit.chunking import in_chunks
from equiv_probe.orbit.rotated_model import RotatedModel
from equiv_probe.rotations.haar import generators
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from equiv_probe.schema.schema import Schema


def infinitesimal(
    predict: Callable[[Any], Any],
    inputs: Any,
    schema: Schema | None = None,
    plan: PlanLike | None = None,
    *,
    stacked: bool = False,
    chunk: int = 64,
    center: str | Tensor = "centroid",
    step: float | None = None,
    output: str | None = None,
) -> float:
    """``A = E_g Σ_a ‖∂_a h_g‖² ≥ 2 L_equiv`` by central differences along the three generators.

    Args:
        predict: the model, as for :func:`equiv_probe.twirl`.
        inputs: of the model.
        schema: representations; None infers them.
        plan: rotations g to average over; None is four tetrahedral replicates.
        stacked: as for twirl.
        chunk: as for twirl.
        center: as for twirl.
        step: angle in radians; None takes 1e-4 for float64 inputs and 1e-2 below.
        output: which output; None is the only one.

    Returns:
        A, in the output's units squared per radian squared; half of it bounds ``L_equiv`` from above. The error of the
        differences is O(step²).
    """
    plan = rotation_plan(plan) or RotationPlan()
    if not plan.is_rotated:
        raise EquivProbeError(
            str(plan), "randomly rotated rotations: this averages over all of SO(3)", "RotationPlan()"
        )
    model = RotatedModel(predict, inputs, schema, center, stacked=stacked)
    names = list(model.identity)
    if output is None and len(names) > 1:
        raise EquivProbeError(f"outputs {names}", "one", f"infinitesimal(..., output={names[0]!r})")
    name = output or names[0]
    if step is None:
        floats = [v.dtype for v in model.inputs.values() if isinstance(v, torch.Tensor) and v.is_floating_point()]
        step = 1e-4 if all(dtype == torch.float64 for dtype in floats) else 1e-2
    rotations = plan.rotations()
    tilts = torch.stack([torch.linalg.matrix_exp(sign * step * generators()) for sign in (1, -1)])  # (2, 3, 3, 3)
    rotated = torch.einsum("saij,kjl->ksail", tilts, rotations.reshape(-1, 3, 3)).reshape(-1, 3, 3)
    parts = list(in_chunks(lambda a, b: model.rotated_back(rotated[a:b])[name], len(rotated), chunk if stacked else 1))
    values = torch.cat(parts).reshape(plan.size, 2, 3, -1)
    slopes = (values[:, 0] - values[:, 1]) / (2 * step)
    per_rotation = slopes.square().mean(-1).sum(-1)
    weights = plan.weights.repeat(plan.R).to(per_rotation) / plan.R
    return float((weights * per_rotation).sum())
