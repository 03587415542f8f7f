"""The headline of an audit of a model of grids: by right angles, exactly, and by all rotations, interpolated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.report.document import Headline
from equiv_probe.report.formatting import number
from equiv_probe.results.measured import Labelled
from equiv_probe.results.verdict_words import BROKEN, beside_floor, errors, severity, times
from equiv_probe.voxels.grid_numbers import ABOVE, Shown

if TYPE_CHECKING:
    from equiv_probe.estimation.decomposition import Decomposition
    from equiv_probe.rotations.plan import RotationPlan


def headline(cube: Shown, rotations: Shown, plan: RotationPlan, interpolation: str) -> Headline:
    """What a plan's rotations by right angles show if they show anything, else what all, interpolated, do."""
    kind, is_above = cube.kind, rotations.is_above_interpolation
    whole = f"{plan.size} rotations by right angles, the whole box"
    ball = f"all rotations, by {interpolation} interpolation, within the ball that the box holds"
    finer = (
        f"Over all rotations it is {rotations}, beside {rotations.floor_in_words} that interpolation leaves: "
        f"{'more' if is_above else 'no more'} than it may make, {ABOVE:g} times its floor of L_equiv."
    )
    exact = (
        f"At right angles, which interpolate nothing, it is {cube}, beside {cube.floor_in_words} that rounding leaves."
    )
    floors = beside_floor(cube.value, *cube.floors, "")
    if kind in BROKEN:
        start = "Yes" if kind == "broken" else "Slightly"
        answer = f"{start}: rotations by right angles, which interpolate nothing, already show it."
        return _headline(cube, kind, answer, whole, [*floors, finer, *_errors(cube)])
    above_floor = f"{times(rotations.ratio)} times {rotations.floor_in_words} that interpolation leaves."
    if is_above:
        answer = "Yes, between right angles: more than interpolation makes of it."
        return _headline(rotations, "broken", answer, ball, [above_floor, exact, *_errors(rotations)])
    if kind == "non-deterministic":
        answer = "It cannot be told: repeating the same input varies as much."
        return _headline(cube, kind, answer, whole, [*floors, finer])
    answer = "Not as far as can be told: nothing at right angles, and between them no more than interpolation may make."
    reach = f"Less than {number(rotations.reach)} cannot be told from interpolation here."
    return _headline(rotations, "round-off", answer, ball, [above_floor, exact, reach])


def kept_axes(plan: RotationPlan) -> list[str]:
    """What rotations of a box with unequal sides cannot show: they take some axes to no other."""
    if plan.design == "cube":
        return []
    kept = "every axis" if plan.design == "box" else f"the {plan.design[-1]} axis"
    return [
        f"Of a box with unequal sides or voxels right angles keep {kept}: a model that treats it otherwise than the "
        "rest of space shows between them alone. Crop to a cube of cubic voxels to see it exactly."
    ]


def labelled(found: Decomposition) -> Labelled | None:
    """The parts of the loss, if there are labels."""
    if not math.isfinite(found.total):
        return None
    parts = {name: getattr(found, name) for name in Labelled.__struct_fields__}
    return Labelled(**{**parts, "unit": found.unit or "own unit"})


def _errors(one: Shown) -> list[str]:
    known = labelled(one.of)
    return errors("values", "", known) if known is not None else []


def _headline(one: Shown, kind: str, answer: str, over: str, beside: list[str]) -> Headline:
    return Headline(
        answer,
        one.value,
        "in the output's own unit" if one.is_root else f"of the loss ({one.of.loss})",
        one.interval,
        f"{'√L_equiv' if one.is_root else 'L_equiv'} over {over}"
        + (": how far a prediction lies from the average over them (root mean square)." if one.is_root else "."),
        beside,
        severity(kind),
        one.of.loss,
    )
