"""Assertions for test suites: this model is equivariant, this one averages, this transform augments.

>>> import torch, equiv_probe as ep
>>> from equiv_probe.testing import assert_equivariant
>>> inputs = {"pos": torch.randn(5, 3, generator=torch.Generator().manual_seed(0))}
>>> schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
>>> def springs(x):  # towards the origin, which is nowhere near when the molecule is moved
...     return {"forces": -x["pos"]}
>>> assert_equivariant(lambda x: {"forces": x["pos"].mean(0) - x["pos"]}, inputs, schema)
>>> assert_equivariant(springs, inputs, schema, group="translation")
Traceback (most recent call last):
    ...
AssertionError: 'forces' is not equivariant under translation: ...
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from equiv_probe.augmentation.check import check_augmentation
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.controls import SEES_ROTATION
from equiv_probe.estimation.verdict import AMPLIFIED, ROUND_OFF_FACTOR
from equiv_probe.live.batch_call import batch_call
from equiv_probe.live.isolation import isolated
from equiv_probe.orbit.controls import controls_of, outputs_when_moved, places_of
from equiv_probe.orbit.reordering import reordered
from equiv_probe.orbit.rotated_model import RotatedModel
from equiv_probe.report.formatting import number
from equiv_probe.rotations.haar import haar
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.schema.grid_plans import exact_grids, fitting_plan
from equiv_probe.schema.translation import shift_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from equiv_probe.schema.schema import Schema

Group = Literal["SO(3)", "O(3)", "reflection", "cube", "translation", "permutation"]
TRIPS = 3
"""Evaluations for the round-off floor."""
CERTAIN = 5.0
"""Standard errors by which an average may miss the group average: one assertion in a million fails by chance."""


def assert_equivariant(
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
) -> None:
    """Assert that a model is equivariant, in the mode and precision in which it is given.

    By default an output passes where its root-mean-square difference over all copies is no more than rounding
    explains: ten times the floor, which is measured by rotating the input there and back. The rotations are the same
    in every run. Random state, flags and buffers of the model stay as they are.

    Args:
        model: a module or any callable.
        batch: what it is called with: a tensor, tuple or dict, or a batch of a framework that a plugin knows. A dict
            whose keys are parameters of ``forward`` is passed as such, a tuple to a ``forward`` of several parameters
            entry by entry.
        schema: representations; None infers them, and says what was assumed.
        group: ``"SO(3)"`` rotations, ``"O(3)"`` with reflections, ``"reflection"`` the inversion and mirrors alone,
            ``"cube"`` its 24 rotations, ``"translation"`` structures moved as a whole, ``"permutation"`` another order
            of the atoms.
        rtol: largest difference of a number, relative to the root mean square of its output. Replaces the default.
        atol: the same, absolute; both add up.
        rotations: how many; those of the cube are always all that fit the grid.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        seed: of the rotations, and of the order of the atoms.
        diagnose: run the cheap part of the diagnosis, and add what it says to the message.

    Raises:
        AssertionError: says which output, structure and rotation, by how much, and why as far as is known. Also for a
            model that does not depend on what was rotated, and for one that is not deterministic.
        EquivProbeError: it cannot be checked, such as translation of a model without places among its inputs.
    """
    if group not in get_args(Group):
        raise EquivProbeError(f"group={group!r}", f"one of {list(get_args(Group))}")
    with isolated(model, gradients=True, contents=True) if isinstance(model, nn.Module) else nullcontext():
        call = batch_call(model, batch, schema)
        subject = RotatedModel(call.predict, call.inputs, call.schema, center, precision=call.precision)
        copies = _copies(subject, group, rotations, seed)
        floors = subject.floors(TRIPS, _trips(subject, seed), TRIPS)
        tolerance = None if atol is None and rtol is None else (atol or 0.0, rtol or 0.0)
        compared = _Comparison(subject, copies, floors, group=group, tolerance=tolerance)
        wrong = [found for name in subject.identity if (found := compared(name)) is not None]
        if wrong:
            why = (
                _diagnosis(model, batch, subject.schema, center, seed)
                if diagnose and copies.rotations is not None
                else []
            )
            raise AssertionError("\n".join([*wrong, *why]))
        if copies.rotations is not None:
            _require_dependence(subject, copies.rotations, floors)


def assert_averages(
    average: Callable[..., Any],
    model: Callable[..., Any],
    batch: Any,
    schema: Schema | None = None,
    *,
    replicates: int = 8,
    center: str | Tensor = "centroid",
    seed: int = 0,
) -> None:
    """Assert that a model gives the group average of another: ``average(x) = E_g ρ(g)⁻¹ model(ρ(g) x)``.

    The group average is estimated from icosahedral replicates; a component may differ by five standard errors of the
    estimate, and those of the average itself, which is evaluated four times, and by rounding.

    Args:
        average: called with ``batch``; may draw its rotations anew at every call.
        model: that it averages.
        batch: as for :func:`assert_equivariant`.
        schema: representations; None infers them from ``model``.
        replicates: of 60 rotations each.
        center: of rotation.
        seed: of the rotations.

    Raises:
        AssertionError: says which output differs from the group average, by how much, and how far the model itself is
            from it.
    """
    modules = [one for one in (average, model) if isinstance(one, nn.Module)]
    with isolated(*modules, gradients=True, contents=True):
        call = batch_call(model, batch, schema)
        subject = RotatedModel(call.predict, call.inputs, call.schema, center, precision=call.precision)
        plan = RotationPlan("icosahedral", replicates=replicates, seed=seed)
        values = subject.rotated_back(plan.rotations().flatten(0, 1))
        claimed = RotatedModel(batch_call(average, batch, subject.schema).predict, call.inputs, subject.schema, center)
        draws = [claimed.identity, *({n: v[0] for n, v in claimed.unrotated().items()} for _ in range(3))]
        wrong = []
        for name, own in subject.identity.items():
            means = values[name].reshape(replicates, -1, *own.shape).mean(1)
            given = torch.stack([one[name] for one in draws])
            error = (_squared_error(means) + _squared_error(given)).sqrt()
            rounding = ROUND_OFF_FACTOR * torch.finfo(call.precision or torch.float64).eps * _root(own)
            off = given.mean(0) - means.mean(0)
            if bool((off.abs() > CERTAIN * error + rounding).any()):
                wrong.append(
                    f"{name!r} is not the group average: it is off by {number(_root(off))}, where chance explains "
                    f"{number(_root(error))}; the model itself is off by {number(_root(own - means.mean(0)))}"
                )
        if wrong:
            raise AssertionError("\n".join(wrong))


def assert_augments(
    transform_or_dataset: Any, sample: Any = None, schema: Schema | None = None, **options: Any
) -> None:
    """Assert that a user's augmentation draws Haar rotations, independent ones, and rotates the labels along.

    Args:
        transform_or_dataset: as for :func:`equiv_probe.check_augmentation`.
        sample: likewise.
        schema: likewise.
        options: its keywords.

    Raises:
        AssertionError: says what is wrong with it.
    """
    check = check_augmentation(transform_or_dataset, sample, schema, **{"progress": False, **options})
    if not check.ok:
        raise AssertionError("\n".join(f"{one.name}: {one.sentence}" for one in check.wrong))


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
        return _Copies({n: v[None] for n, v in reordered(subject, seed).items()}, ["with its atoms in another order"])
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

    def __call__(self, name: str) -> str | None:
        """What is wrong with an output, in words; None if nothing is."""
        own, values = self._subject.identity[name], self._copies.outputs.get(name)
        if values is None or not own.numel():
            return None  # translation of an output that is no floating-point number
        floor, noise = (_root(one[name] - own) for one in self._floors)
        size, eps = _root(own), torch.finfo(self._subject.precision or torch.float64).eps
        off = (values - own).abs().nan_to_num(math.inf, math.inf)
        if self._tolerance is not None:
            absolute, relative = self._tolerance
            allowed = absolute + relative * size
            measured, beside = float(off.max()), f"the tolerance is {number(allowed)}"
        else:
            # A floor far above the precision hides an error: a jump, or amplified rounding.
            explained = max(min(floor, AMPLIFIED * eps * max(size, 1.0)), eps * size * (1 + self._copies.far))
            allowed, measured = ROUND_OFF_FACTOR * explained, _root(off)
            beside = f"rounding explains {number(explained)}"
        if noise > max(allowed, AMPLIFIED * eps * size):
            return (
                f"{name!r} is not deterministic: the very same input gives outputs that differ by {number(noise)} "
                f"{_relative(noise, size)}. Call model.eval(), or fix the seed of what the model draws"
            )
        if measured <= max(allowed, noise):
            return None
        return (
            f"{name!r} is not equivariant under {self._group}: it differs by {number(_root(off))} "
            f"{_relative(_root(off), size)}, where {beside}.\n{self._worst(name, off)}"
        )

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


def _relative(value: float, size: float) -> str:
    return f"({100 * value / size:.2g} % of its size, {number(size)})" if size > 0 else "(it should be zero)"


def _require_dependence(
    subject: RotatedModel, rotations: Tensor, floors: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    """A model that never looks at what was rotated passes every test of it."""
    for control in controls_of(subject, rotations, *floors):
        if control.name == SEES_ROTATION and control.failed:
            raise AssertionError(f"{control.sentence}: that it is equivariant says nothing")


def _diagnosis(model: Callable[..., Any], batch: Any, schema: Schema, center: str | Tensor, seed: int) -> list[str]:
    """What the cheap part of the diagnosis says, line by line."""
    del model, batch, schema, center, seed
    return []


def _squared_error(values: Tensor) -> Tensor:
    return values.var(0) / len(values)


def _root(values: Tensor) -> float:
    return math.sqrt(float(values.double().square().mean())) if values.numel() else 0.0


__all__ = ["Group", "assert_augments", "assert_averages", "assert_equivariant"]
