"""Controls of an orbit: do the outputs depend on what was rotated, and not on where the structure is?

Both are cheap: the first needs one evaluation more where outputs were the same to the last bit at all rotations, the
second one evaluation of the structure moved.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.controls import (
    TRANSLATION,
    Control,
    does_not_move,
    nothing_elsewhere,
)
from equiv_probe.orbit.coordinates_beside import coordinates_in, matters, same, tensors_beside
from equiv_probe.orbit.seen_rotation import dependence_on_rotation, digits_of, nudge, root_of, rotating_inputs
from equiv_probe.schema.translation import shift_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from equiv_probe.orbit.rotated_model import RotatedModel

STEPS = (-0.01, -0.005, 0.005, 0.01)
"""Relative changes of the move, small enough that only rounding makes their results differ."""
FIXED = 'if its positions are counted from a point that matters, rotate about that: center="origin"'
ROUGH = 10.0
"""Multiple of the scatter between nearly equal moves above which a difference is more than rounding."""


def controls_of(
    model: RotatedModel, rotations: Tensor, round_trips: Mapping[str, Tensor], repeats: Mapping[str, Tensor]
) -> list[Control]:
    """The controls of a model that was evaluated at rotations ``(K, 3, 3)``.

    ``round_trips`` are outputs at inputs that differ by rounding alone, ``(F, *S)`` by name, ``repeats`` those at the
    very same input; empty if not evaluated.
    """
    if any(value.device.type == "meta" for value in model.identity.values()):  # there are no numbers
        return []
    moved = _stays_when_moved(model, round_trips, repeats)
    return [*dependence_on_rotation(model, rotations), *held_elsewhere(model), *moved]


def held_elsewhere(model: RotatedModel) -> list[Control]:
    """Failed controls of coordinates that a model sees beside its inputs; nothing is evaluated where it names none."""
    held = tensors_beside(model.predict)
    found = coordinates_in(held, model.inputs, model.schema.inputs)

    if not found:
        return []
    # The same inputs each time, though what is displaced may be the very tensor that was given as one.
    inputs = {n: v.detach().clone() for n, v in model.inputs.items() if torch.is_tensor(v)}

    def evaluate() -> dict[str, Tensor]:
        return model.at({n: v.clone()[None] for n, v in inputs.items()}, 1)

    # What a call writes there itself goes with its inputs.
    written = {name for name in found if not _stays_beside(model, name, held[name])}
    return [nothing_elsewhere(n, what) for n, what in found.items() if n not in written and matters(held[n], evaluate)]


def _stays_beside(model: RotatedModel, name: str, value: Tensor) -> bool:
    """Whether a tensor beside the inputs is what it was after the model was evaluated at displaced inputs."""
    generator = torch.Generator().manual_seed(0)
    copies = {n: (v.detach() + nudge(v.detach(), generator).to(v))[None] for n, v in rotating_inputs(model).items()}
    before = value.detach().clone()
    model.at(copies, 1)
    return same(before, tensors_beside(model.predict).get(name))


def _stays_when_moved(
    model: RotatedModel, round_trips: Mapping[str, Tensor], repeats: Mapping[str, Tensor]
) -> list[Control]:
    places = places_of(model)
    if not places:
        return []
    if not model.is_about_centroid:
        fixed = "structures were not moved, so that broken translation does not show: they rotate about a fixed point"
        return [Control(TRANSLATION, None, fixed)]
    first = next(iter(places))
    spread, shift = shift_of(model.schema.inputs[first].places(places[first].detach()))
    try:
        there = outputs_when_moved(model, shift)
    except Exception as error:  # far from where it was, as outside of a box
        return [Control(TRANSLATION, None, f"the model could not be evaluated where the structure was moved: {error}")]
    controls = []
    for name in there:
        here, held = model.identity[name], model.held(model.identity[name], model.schema.outputs[name])
        difference = root_of(there[name] - here, held)
        floors = [root_of(other[name] - here, held) for other in (round_trips, repeats) if name in other]
        low = digits_of(here, model.precision, floors[0] if name in round_trips else math.nan)
        explained = torch.finfo(low).eps * root_of(here, held) * (1 + float(shift.norm()) / max(spread, 1e-6))
        rounding = max([explained, *(one for one in floors if math.isfinite(one))])
        controls.append(does_not_move(name, difference, rounding, "", "moved as a whole"))
    if not any(one.failed for one in controls):
        return controls
    rough = [outputs_when_moved(model, (1 + step) * shift) for step in STEPS]
    return [
        _smooth(one, name, there[name], [at[name] for at in rough]) for one, name in zip(controls, there, strict=True)
    ]


def _smooth(control: Control, name: str, there: Tensor, nearby: Sequence[Tensor]) -> Control:
    """A failed control with what else it may be, unless nearly the same move makes as large a difference: rounding.

    A model may round in a precision that neither its inputs nor its outputs show, and more so the farther it is moved.
    """
    between = math.sqrt(sum(root_of(one - there) ** 2 for one in nearby) / len(nearby))
    if not control.failed:
        return control
    if control.value > ROUGH * between:
        return replace(control, sentence=f"{control.sentence} ({FIXED})")
    sentence = (
        f"{name}: off by {control.value:.2g} where structures are moved as a whole, and by {between:.2g} between two "
        "moves that hardly differ: rounding, or a model that jumps"
    )
    return Control(TRANSLATION, None, sentence, control.value, ROUGH * between)


def places_of(model: RotatedModel) -> dict[str, Tensor]:
    """The inputs that are places, which move when structures are moved."""
    return {name: value for name, value in rotating_inputs(model).items() if model.schema.inputs[name].is_affine}


def outputs_when_moved(model: RotatedModel, shift: Tensor) -> dict[str, Tensor]:
    """Floating-point outputs where all structures are moved, and moved back where they are places themselves."""
    copies = model.rotated(None)
    for name, value in places_of(model).items():
        moved = model.schema.inputs[name].translate(value.detach(), shift.to(value.device))
        held = model.held(value, model.schema.inputs[name])  # padding stays where it is, as it does in data
        copies[name] = (moved if held is None else torch.where(held, moved, value.detach()))[None]
    found = {}
    for name, value in model.at(copies, 1).items():
        rep = model.schema.outputs[name]
        back = rep.translate(rep.within(value[0]), -shift.to(value.device))
        if name in model.floating and back.shape == model.identity[name].shape:
            found[name] = back
    return found
