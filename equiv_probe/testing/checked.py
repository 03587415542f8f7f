"""How equivariant a model is under a group, output by output: what the assertions assert.

A difference is compared with what rounding explains: the outputs for inputs that were rotated there and back.
"""

from __future__ import annotations

import math
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from msgspec.structs import replace
from torch import nn

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.diagnose import hints
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.controls import UNMOVED, failures_of
from equiv_probe.estimation.verdict import AMPLIFIED, GROWS, ROUND_OFF_FACTOR
from equiv_probe.live.batch_call import batch_call
from equiv_probe.live.isolation import isolated
from equiv_probe.orbit.controls import (
    dependence_on_rotation,
    held_elsewhere,
    moving_inputs,
    nudge,
    outputs_when_moved,
    places_of,
    rotating_inputs,
    sees_displacement,
)
from equiv_probe.orbit.reordering import reordered
from equiv_probe.orbit.rotated_model import RotatedModel
from equiv_probe.report.formatting import number
from equiv_probe.report.record import Part
from equiv_probe.rotations.haar import haar
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.schema.grid_plans import exact_grids, fitting_plan
from equiv_probe.schema.translation import shift_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from equiv_probe.estimation.controls import Control
    from equiv_probe.schema.schema import Schema

Group = Literal["SO(3)", "O(3)", "reflection", "cube", "translation", "permutation"]
TRIPS = 3
"""Evaluations for the round-off floor."""


class Checked(Part, frozen=True):
    """One output of a model under one group.

    Attributes:
        output: its name.
        group: that the copies of the input are of.
        error: root mean square of how outputs for the copies, brought back, differ from that for the input itself.
        size: root mean square of the output.
        allowed: the largest error that passes; where a tolerance was given, of every number.
        copies: how many.
        wrong: what is wrong with it, in words; empty where it passes.
    """

    output: str
    group: str
    error: float
    size: float
    allowed: float
    copies: int
    wrong: str = ""


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
    with isolated(model, gradients=True, contents=True) if isinstance(model, nn.Module) else nullcontext():
        call = batch_call(model, batch, schema)
        subject = RotatedModel(call.predict, call.inputs, call.schema, center, precision=call.precision)
        copies = _copies(subject, group, rotations, seed)
        floors = subject.floors(TRIPS, _trips(subject, seed), TRIPS)
        tolerance = None if atol is None and rtol is None else (atol or 0.0, rtol or 0.0)
        compared = _Comparison(subject, copies, floors, group=group, tolerance=tolerance)
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


def _dependence(subject: RotatedModel, copies: _Copies) -> list[Control]:
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


@dataclass(frozen=True)
class _Copies:
    """Outputs for copies of the input, brought back, ``(C, *S)`` by name, and what each copy is, in words."""

    outputs: dict[str, Tensor]
    words: Sequence[str]
    rotations: Tensor | None = None
    far: float = 0.0
    """How far copies were moved, in units of the structure's size: coordinates lose digits."""


def _copies(subject: RotatedModel, group: Group, count: int, seed: int) -> _Copies:
    if group == "permutation":
        return _Copies(reordered(subject, seed), ["with its atoms in another order", "with two atoms exchanged"])
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
    return _Copies(subject.rotated_back(chosen), [_in_words(one) for one in chosen], chosen)


def _moved(subject: RotatedModel) -> _Copies:
    places = places_of(subject)
    if not places:
        raise EquivProbeError(
            "no places among the inputs", "an input that can be moved", 'ep.Schema(inputs={"pos": ep.point}, …)'
        )
    name, value = next(iter(places.items()))
    spread, shift = shift_of(subject.schema.inputs[name].places(value.detach()))
    moved = {n: v[None] for n, v in outputs_when_moved(subject, shift).items()}
    return _Copies(moved, [f"moved by {_entry(shift)}"], far=float(shift.norm()) / max(spread, 1e-6))


def _trips(subject: RotatedModel, seed: int) -> Tensor:
    if not exact_grids(subject.schema):
        return haar(TRIPS, torch.Generator().manual_seed(seed + 1))
    plan = fitting_plan(RotationPlan("cube"), subject.schema, subject.inputs, subject.identity)
    return plan.rotations().flatten(0, 1)[:TRIPS]


class _Comparison:
    """Compares outputs for copies with those for the input as it is.

    Args:
        subject: the model.
        copies: what it says of them.
        floors: outputs at round trips, and at the very same input again.
        group: that the copies are of.
        tolerance: absolute and relative, of every number; None is what rounding explains of the root mean square.
    """

    def __init__(
        self,
        subject: RotatedModel,
        copies: _Copies,
        floors: tuple[dict[str, Tensor], dict[str, Tensor]],
        *,
        group: Group,
        tolerance: tuple[float, float] | None,
    ) -> None:
        self._subject, self._copies, self._floors = subject, copies, floors
        self._group, self._tolerance = group, tolerance

    def __call__(self, name: str) -> Checked | None:
        """An output; None if there is nothing to compare, as under translation of what is no floating-point number."""
        own, values = self._subject.identity[name], self._copies.outputs.get(name)
        if values is None or not own.numel():
            return None
        floor, noise = (root(one[name] - own) for one in self._floors)
        size, eps = root(own), torch.finfo(self._subject.precision or torch.float64).eps
        off = (values - own).abs().nan_to_num(math.inf, math.inf)
        if self._tolerance is not None:
            absolute, relative = self._tolerance
            allowed = absolute + relative * size
            measured, beside = float(off.max()), f"the tolerance is {number(allowed)}"
        else:
            most = AMPLIFIED * eps * max(size, 1.0)
            # A floor far above the precision hides an error, unless it is rounding that the model amplifies.
            known = floor if floor <= most or self._amplifies(name, floor, eps) else most
            explained = max(known, eps * size * (1 + self._copies.far))
            allowed, measured = ROUND_OFF_FACTOR * explained, root(off)
            beside = f"rounding explains {number(explained)}"
            if floor > ROUND_OFF_FACTOR * explained:
                beside += f" (inputs that differ by rounding alone make {number(floor)}: it jumps, or loses digits)"
        wrong = ""
        if noise > max(allowed, AMPLIFIED * eps * size):
            wrong = (
                f"{name!r} is not deterministic: the very same input gives outputs that differ by "
                f"{_beside(noise, size)}. Call model.eval(), or fix the seed of what the model draws"
            )
        elif measured > max(allowed, noise):
            wrong = (
                f"{name!r} is not equivariant under {self._group}: it differs by {_beside(root(off), size)}, where "
                f"{beside}.\n{self._worst(name, off)}"
            )
        return Checked(name, self._group, root(off), size, allowed, len(values), wrong)

    def _amplifies(self, name: str, floor: float, eps: float) -> bool:
        """Whether inputs that differ a hundred times more than by rounding change an output more than the floor.

        A smooth output changes a hundred times more; one that jumps does not.
        """
        subject, generator = self._subject, torch.Generator().manual_seed(0)
        copies = {
            other: value.detach() + nudge(value.detach(), generator, 100 * eps).to(value)
            for other, value in rotating_inputs(subject).items()
        }
        changed = subject.at({other: value[None] for other, value in copies.items()}, 1)[name][0]
        return root(subject.schema.outputs[name].within(changed) - subject.identity[name]) > GROWS * floor

    def _worst(self, name: str, off: Tensor) -> str:
        own, values = self._subject.identity[name], self._copies.outputs[name]
        copy, *place = (int(k) for k in torch.unravel_index(off.argmax(), off.shape))
        entry = tuple(place[: own.ndim - len(self._subject.schema.outputs[name].event_shape)])
        where = _where(self._subject, entry, own.shape)
        return (
            f"Worst {where}{self._copies.words[copy]}: {_entry(values[(copy, *entry)])} instead of "
            f"{_entry(own[entry])}, off by {number(float(off.max()))}."
        )


def _where(subject: RotatedModel, place: Sequence[int], shape: Sequence[int]) -> str:
    """Structure and atom of a place in an output."""
    if not place:
        return ""
    schema, inputs = subject.schema, subject.inputs
    if schema.batch is not None:
        index = inputs[schema.batch]
        if shape[0] == len(index):
            return f"at structure {int(index[place[0]])}, atom {place[0]} of the batch, "
        return f"at structure {place[0]}, "
    if any(rep.is_affine and inputs[n].ndim == 2 for n, rep in schema.inputs.items()):
        return f"at atom {place[0]}, "
    return f"at structure {place[0]}, " + (f"atom {place[1]}, " if len(place) > 1 else "")


def _entry(value: Tensor) -> str:
    if value.numel() > 9:
        return f"{number(float(value.flatten()[0]))}, …"
    numbers = [number(float(x)) for x in value.flatten()]
    return numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"


def _in_words(rotation: Tensor) -> str:
    """An orthogonal matrix as an angle about an axis."""
    determinant = float(torch.linalg.det(rotation))
    proper = rotation if determinant > 0 else -rotation
    angle = math.degrees(math.acos(max(-1.0, min(1.0, (float(proper.trace()) - 1) / 2))))
    # The axis is the eigenvector of the eigenvalue one: of the symmetric part, the largest eigenvalue.
    axis = torch.linalg.eigh((proper + proper.mT).double())[1][:, -1]
    skew = torch.stack([proper[2, 1] - proper[1, 2], proper[0, 2] - proper[2, 0], proper[1, 0] - proper[0, 1]])
    axis = axis if float(skew.double() @ axis) >= 0 else -axis
    about = f"rotated by {angle:.0f}° about ({', '.join(f'{x:.2f}' for x in axis.tolist())})"
    if determinant > 0:
        return about
    return "inverted" if angle < 1e-3 else f"inverted and {about}"


def _beside(value: float, size: float) -> str:
    """A difference beside the size of the output."""
    percent = 100 * value / size if size > 0 else math.inf
    shown = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"
    return f"{number(value)} ({shown} % of its size, {number(size)})" if size > 0 else f"{number(value)} (of nothing)"
