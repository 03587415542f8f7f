"""How equivariant a model is under a group, output by output: what the assertions assert.

A difference is compared with what rounding explains: the outputs for inputs that were rotated there and back.
"""

from __future__ import annotations

import math
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from msgspec.structs import replace
from torch import nn

from equiv_probe.diagnosis.diagnose import hints
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.controls import UNMOVED, failures_of
from equiv_probe.live.batch_call import batch_call
from equiv_probe.live.isolation import isolated
from equiv_probe.orbit.controls import held_elsewhere, outputs_when_moved, places_of
from equiv_probe.orbit.reordering import reordered
from equiv_probe.orbit.rotated_model import RotatedModel
from equiv_probe.orbit.seen_rotation import dependence_on_rotation, moving_inputs, sees_displacement
from equiv_probe.rotations.haar import haar
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.schema.grid_plans import exact_grids, fitting_plan
from equiv_probe.schema.translation import shift_of
from equiv_probe.testing.compared import Checked, Comparison, Copies
from equiv_probe.testing.copy_words import entry, in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from equiv_probe.estimation.controls import Control
    from equiv_probe.schema.schema import Schema

Group = Literal["SO(3)", "O(3)", "reflection", "cube", "translation", "permutation"]
TRIPS = 3
"""Evaluations for the round-off floor."""


def checked(
    model: Callable[..., Any],
    batch: Any,
    schema: Schema | None = None,
    *,
    group: Group = "SO(3)",
    rtol: float | None = None,
    atol: float | None = None,
    rotations: int = 12,
    center: str | Tensor = "centroid",
    seed: int = 0,
    diagnose: bool = True,
) -> list[Checked]:
    """Evaluate a model at copies of its input; arguments as of :func:`equiv_probe.testing.assert_equivariant`."""
    if group not in get_args(Group):
        raise EquivProbeError(f"group={group!r}", f"one of {list(get_args(Group))}")
    for name, given in (("rtol", rtol), ("atol", atol)):
        if given is not None and not 0 <= given < math.inf:  # whatever is compared with NaN passes
            raise EquivProbeError(f"{name}={given!r}", "a finite number, zero or more")
    if rotations < 1:
        raise EquivProbeError(f"rotations={rotations!r}", "one rotation or more", "rotations=12")
    with isolated(model, gradients=True, contents=True) if isinstance(model, nn.Module) else nullcontext():
        call = batch_call(model, batch, schema)
        subject = RotatedModel(call.predict, call.inputs, call.schema, center, precision=call.precision)
        copies = _copies(subject, group, rotations, seed)
        floors = subject.floors(TRIPS, _trips(subject, seed), TRIPS)
        tolerance = None if atol is None and rtol is None else (atol or 0.0, rtol or 0.0)
        compared = Comparison(subject, copies, floors, group=group, tolerance=tolerance)
        found = [one for name in subject.identity if (one := compared(name)) is not None]
        broken = [one.output for one in found if one.wrong]
        why: list[str] = []
        if broken and diagnose and copies.rotations is not None:
            with suppress(EquivProbeError):  # a diagnosis that cannot be made, as of grids, must not hide the error
                why = hints(model, batch, subject.schema, outputs=broken, center=center, seed=seed)
        seen = [] if broken or group == "permutation" else _dependence(subject, copies)
    # A model that never looks at what was rotated would pass every test of it.
    blind = [f"{sentence}: that it is equivariant says nothing" for sentence in failures_of(seen)]
    if broken:
        last = max(k for k, one in enumerate(found) if one.wrong)
        found[last] = replace(found[last], wrong="\n".join([found[last].wrong, *why]))
    elif blind:
        found = [replace(one, wrong=blind[0]) for one in found[:1]] + found[1:]
    return found


def _dependence(subject: RotatedModel, copies: Copies) -> list[Control]:
    """Whether what passed depends on what was changed.

    Raises:
        EquivProbeError: it cannot be told, for no copy differs from the input, or the input cannot be deformed.
    """
    if copies.rotations is None:
        return [sees_displacement(subject, list(copies.outputs), places_of(subject))[0]]
    fix = "check it with a structure of two atoms or more, not all in one place"
    if not moving_inputs(subject, copies.rotations[:3]):
        raise EquivProbeError(f"nothing that rotates, such as {UNMOVED}", "inputs that rotation changes", fix)
    seen = dependence_on_rotation(subject, copies.rotations)
    for one in seen:
        if one.passed is None:
            raise EquivProbeError(one.sentence, "outputs that are seen to depend on the input", fix)
    return [*seen, *held_elsewhere(subject)]


def require_equivariant(found: Sequence[Checked]) -> None:
    """Raise AssertionError, in words, unless all outputs pass."""
    __tracebackhide__ = True
    wrong = [one.wrong for one in found if one.wrong]
    if wrong:
        raise AssertionError("\n".join(wrong))


def _copies(subject: RotatedModel, group: Group, count: int, seed: int) -> Copies:
    if group == "permutation":
        return Copies(reordered(subject, seed), ["with its atoms in another order", "with two atoms exchanged"])
    if group == "translation":
        return _moved(subject)
    plan = RotationPlan("cube", improper=group in {"O(3)", "reflection"})
    if group == "cube" or exact_grids(subject.schema):
        chosen = fitting_plan(plan, subject.schema, subject.inputs, subject.identity).rotations().flatten(0, 1)
        chosen = chosen[torch.linalg.det(chosen) < 0] if group == "reflection" else chosen
    else:
        chosen = haar(count, torch.Generator().manual_seed(seed))
        chosen[1::2] *= -1 if group == "O(3)" else 1
        chosen = -torch.cat([torch.eye(3, dtype=chosen.dtype)[None], chosen]) if group == "reflection" else chosen
    return Copies(subject.rotated_back(chosen), [in_words(one) for one in chosen], chosen)


def _moved(subject: RotatedModel) -> Copies:
    places = places_of(subject)
    if not places:
        raise EquivProbeError(
            "no places among the inputs", "an input that can be moved", 'ep.Schema(inputs={"pos": ep.point}, …)'
        )
    name, value = next(iter(places.items()))
    spread, shift = shift_of(subject.schema.inputs[name].places(value.detach()))
    moved = {n: v[None] for n, v in outputs_when_moved(subject, shift).items()}
    return Copies(moved, [f"moved by {entry(shift)}"], far=float(shift.norm()) / max(spread, 1e-6))


def _trips(subject: RotatedModel, seed: int) -> Tensor:
    if not exact_grids(subject.schema):
        return haar(TRIPS, torch.Generator().manual_seed(seed + 1))
    plan = fitting_plan(RotationPlan("cube"), subject.schema, subject.inputs, subject.identity)
    return plan.rotations().flatten(0, 1)[:TRIPS]
