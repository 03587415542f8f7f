"""The orbit of a model over rotations: batching, chunking, streaming moments, and backing off when memory runs out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.estimation.orbit import Moments, Orbit
from equiv_probe.orbit.chunking import in_chunks
from equiv_probe.orbit.controls import controls_of
from equiv_probe.orbit.rotated_model import RotatedModel
from equiv_probe.progress import progress as progress_bar
from equiv_probe.rotations.haar import haar
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe.schema.grid_plans import exact_grids, fitting_plan, one_of, require_fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from equiv_probe.schema.schema import Schema


KEEP_LIMIT = 2**24
"""Orbits of at most this many numbers (128 MiB) are kept without being asked for."""


def twirl(
    predict: Callable[[Any], Any],
    inputs: Any,
    schema: Schema | None = None,
    plan: PlanLike | None = None,
    *,
    stacked: bool = False,
    chunk: int = 64,
    center: str | Tensor = "centroid",
    keep: bool | None = None,
    generator: torch.Generator | None = None,
    floor: int = 3,
    precision: torch.dtype | None = None,
    progress: bool = True,
) -> Orbit:
    """Evaluate the orbit ``h_g(x) = ρ_out(g)⁻¹ f(ρ_in(g) x)`` of one input over a plan's rotations.

    Args:
        predict: the model, inputs to outputs (tensor, tuple or dict of tensors or NumPy arrays).
        inputs: tensor, tuple or dict; one structure, a dense batch, or node tensors with a batch index.
        schema: representations; None infers them and prints what was assumed.
        plan: None is four tetrahedral replicates, 48 rotations; for grids without interpolation the rotations of the
            cube, or on boxes that are no cubes the rotations by 180°.
        stacked: False calls ``predict`` with one rotated copy at a time; True once per chunk, with a leading rotation
            axis ``(C, ...)`` on the inputs that rotate, and expects it on every output.
        chunk: rotations per call when stacked; halved when memory runs out.
        center: centre of rotation of points: ``"centroid"`` of each structure's first point input, ``"origin"``,
            ``"box"`` for points that are counted in voxels (times the spacing) from the first sample of a grid among
            the inputs, or a tensor that broadcasts against the points.
        keep: whether to keep the orbit itself; None keeps it while it is small. Otherwise only moments stay, whose size
            does not grow with the number of rotations.
        generator: source of the rotations; None uses the plan's seed.
        floor: evaluations at ``g⁻¹(g x)`` for the round-off floor; 0 leaves the floors out.
        precision: the model's, if it is lower than that of the inputs it is given; the round trips are made in it.
        progress: show a bar in a terminal, lines in a log, once it takes longer than two seconds.

    Returns:
        The orbit, in float64 (float32 on devices without it), with the controls that its numbers must have passed: do
        the outputs depend on what was rotated, and (about the centroid) not on where the structure is?

    Raises:
        EquivProbeError: see the message; what was found, what was expected, what to pass.
    """
    model = RotatedModel(predict, inputs, schema, center, precision=precision, stacked=stacked)
    plan = rotation_plan(plan) or fitting_plan(RotationPlan(), model.schema, model.inputs, model.identity)
    require_fit(plan, model.schema, model.inputs, model.identity, alone=not stacked)
    began = time.perf_counter()
    rotations = plan.rotations(generator)
    flat = rotations.reshape(-1, 3, 3)
    moments = Moments(model.identity, plan.weights, len(rotations))
    size = sum(value.numel() for value in model.identity.values()) * len(flat)
    stored: list[dict[str, Tensor]] | None = [] if (keep if keep is not None else size <= KEEP_LIMIT) else None
    with progress_bar(len(flat), "rotations", shown=progress) as advance:
        step = chunk if stacked else 1
        for values in in_chunks(lambda a, b: model.rotated_back(flat[a:b]), len(flat), step):
            moments.add(values)
            if stored is not None:
                stored.append(values)
            advance(len(next(iter(values.values()))))
    kept = None
    if stored is not None:
        joined = {name: torch.cat([part[name] for part in stored]) for name in model.identity}
        kept = {name: v.reshape(*rotations.shape[:2], *v.shape[1:]) for name, v in joined.items()}
    extra = model.floors(floor, _round_trips(floor, plan, model.schema), chunk) if floor else ({}, {})
    controls = controls_of(model, flat, *extra)
    return Orbit(
        model.schema,
        plan,
        rotations,
        plan.weights,
        *moments.result(),
        kept,
        *extra,
        centers=model.centers.by_name(model.identity),
        evaluations=model.evaluations,
        seconds=time.perf_counter() - began,
        controls=controls,
    )


def _round_trips(count: int, plan: RotationPlan, schema: Schema) -> Tensor:
    """Rotations there and back, ``(count, 3, 3)``: any, where nothing but the cube's rotate a grid those."""
    generator = plan.generator(1)
    if not exact_grids(schema):
        return haar(count, generator)
    return one_of(plan).draws(count, generator).reshape(-1, 3, 3)
