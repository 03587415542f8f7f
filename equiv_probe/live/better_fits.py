"""Whether outputs of a live network rotate as was assumed: those of a few rotations, rotated back otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.orbit import Orbit
from equiv_probe.estimation.other_components import MOST
from equiv_probe.estimation.second_opinion import second_opinion
from equiv_probe.live.capture import wide
from equiv_probe.representations.representation import Voigt
from equiv_probe.rotations.haar import haar
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.schema.usual_names import usual

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.live.dependence import Passes

COUNT = 4
"""Rotations: four leave no doubt about what changes by orders of magnitude."""
FAR_BETTER = 1e-4
"""Part of the variance that may be left: a broken network whose outputs are mostly a bias is no invariant one."""


def better_fits(passes: Passes, rotations: Tensor) -> dict[str, str]:
    """By output that was guessed a sentence that says what it rotates as, where that is far better than the guess.

    Args:
        passes: over the call.
        rotations: ``(C, [U,] 3, 3)`` that fit the inputs, for grids; others rotate by random ones.
    """
    live, call = passes.live, passes.call
    schema, structures = live.known_schema, live.structures(call.inputs)
    guessed = {one.name for one in schema.assumptions if one.role == "outputs"}
    asked = [
        name
        for name, rep in schema.outputs.items()
        if name in guessed and (isinstance(rep, Voigt) or usual(name, tuple(passes.own[name].shape)) is None)
        if rep.is_whole or _may_be_several(passes.own[name], rep.event_shape)
    ]
    if not asked:
        return {}
    if not any(rep.is_whole for rep in schema.inputs.values()):
        rotations = haar(COUNT, torch.Generator().manual_seed(2)).to(rotations)
    if rotations.ndim > 3:  # alike for all structures, as other representations are tried
        rotations = rotations[:, 0]
    rotated = structures.rotate(call.inputs, schema, rotations)
    copies = [passes.at({name: value[k] for name, value in rotated.items()}) for k in range(len(rotations))]
    if any(one[name].shape != passes.own[name].shape for one in copies for name in asked):
        return {}
    raw = {name: torch.stack([one[name] for one in copies]) for name in asked}
    back = {name: wide(v).cpu() for name, v in structures.rotate_back(raw, schema, rotations).items()}
    own = {name: wide(passes.own[name]).cpu() for name in asked}
    plan = RotationPlan("haar", replicates=len(rotations))
    values = {name: value[:, None] for name, value in back.items()}
    orbit = Orbit.from_values(values, own, schema, plan, rotations.cpu().double()[:, None])
    return {name: said for name in asked if (said := second_opinion(orbit, name, FAR_BETTER))}


def _may_be_several(value: Tensor, event_shape: tuple[int, ...]) -> bool:
    """Whether a tensor has an axis of components that may be of several representations."""
    is_wide = value.ndim > 1 and 3 <= value.shape[-1] <= MOST
    return value.is_floating_point() and (bool(event_shape) or is_wide) and value.numel() > 0
