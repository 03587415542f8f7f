"""Controls of an orbit: do the outputs depend on what was rotated, and not on where the structure is?

Both are cheap: the first needs one evaluation more where outputs were the same to the last bit at all rotations, the
second one evaluation of the structure moved.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.controls import (
    TRANSLATION,
    Control,
    does_not_move,
    forgets,
    nothing_elsewhere,
    nothing_rotates,
    sees_rotation,
)
from equiv_probe.orbit.coordinates_beside import coordinates_in, matters, same, tensors_beside
from equiv_probe.representations.representation import Fixed
from equiv_probe.schema.translation import shift_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from equiv_probe.orbit.rotated_model import RotatedModel

NUDGE = 0.1
"""Displacement of every coordinate, relative to the spread of all."""
LARGE_NUDGE = 1.0
"""Of a second displacement, for outputs of few digits."""
STAYS = 4.0
"""Spacings of the largest coordinate by which an input that does not rotate (an atom about itself) may change."""
STEPS = (-0.01, -0.005, 0.005, 0.01)
"""Relative changes of the move, small enough that only rounding makes their results differ."""
REMEMBERED = 6
"""Rotated copies that are compared with their neighbours."""
NEARBY = (1e-2, 1e-3, 1e-4, 1e-5)
"""Displacements of these, relative to the spread of all coordinates: one distance that is not as it was is enough for
most caches, and what an output may differ by is less the smaller they are."""
SLOPE = 0.6
"""Of the difference between two neighbours: a smooth output lies in the middle, a rounded one within half of it."""
LASTS = 0.5
"""Of the difference from neighbours ten times as far away, what there is still: a bent output leaves a hundredth."""
ROUNDED = 1e3
"""Spacings of numbers that rounding makes at most of an output."""
FIXED = 'if its positions are counted from a point that matters, rotate about that: center="origin"'
ROUGH = 10.0
"""Multiple of the scatter between nearly equal moves above which a difference is more than rounding."""
_LOW = (torch.bfloat16, torch.float16, torch.float32)


def nudge(value: Tensor, generator: torch.Generator, size: float = NUDGE) -> Tensor:
    """Random displacements of each entry, which no rotation makes, float32, ``size`` times the spread of all entries.

    Entries that are not finite count as zero; the generator is on the CPU, so that all devices draw the same numbers.
    """
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.device)
    finite = torch.where(value.isfinite(), value, 0.0).float()
    return noise * (size * finite.std(unbiased=False).clamp_min(1e-6))


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


def dependence_on_rotation(model: RotatedModel, rotations: Tensor) -> list[Control]:
    """Whether the outputs depend on what was rotated; an evaluation or two, and only where they stayed the same."""
    given = [name for name, value in model.identity.items() if value.numel()]
    # Classes and counts are the same at many inputs: they are asked only where there is nothing else.
    known = [name for name in given if name in model.floating] or given
    still = [name for name in known if name not in model.varying]
    if not still:
        return [sees_rotation([], [], 1)] if known else []
    moving = moving_inputs(model, rotations[:3])
    same = [] if moving else [name for name in still if _is_symmetric(model, name, rotations[:3])]
    if same:
        return [nothing_rotates(same)]
    seen, stuck = sees_displacement(model, still, moving)
    doubtful = [name for name in still if name not in stuck and name in model.floating]
    return [seen, *_remembered(model, rotations[:REMEMBERED], doubtful if seen.passed is not None else [])]


def sees_displacement(model: RotatedModel, outputs: Sequence[str], inputs: Iterable[str]) -> tuple[Control, list[str]]:
    """Whether outputs depend on inputs, and those that are the same to the last bit where these are displaced.

    What is rounded to few digits, or counted, is given a second, larger displacement.
    """
    stuck, generator = list(outputs), torch.Generator().manual_seed(0)
    unknown = sees_rotation([], [], 0), stuck
    if not any(_can_be_deformed(model, name) for name in inputs):
        return unknown
    for size in (NUDGE, LARGE_NUDGE):
        copies = {
            name: rep.within(_displaced(value, generator, size)) if rep.event_shape else value
            for name, value in model.rotated(None).items()
            if (rep := model.schema.inputs[name])
        }
        try:
            found = model.at(copies, 1)
        except Exception:  # a model may refuse what no rotation makes: then nothing is known
            if size == NUDGE:
                return unknown
            break
        stuck = [name for name in stuck if model.is_own(name, found[name])]
        if not stuck:
            break
    return sees_rotation(stuck, ["the input"] if stuck else [], 1), stuck


def _remembered(model: RotatedModel, rotations: Tensor, names: Sequence[str]) -> Iterator[Control]:
    """The failed controls of outputs that were the same to the last bit, unlike those of copies a hair's breadth away.

    A model that keeps what it gave for these distances gives that for every rotated copy, and looks invariant. Rounded
    outputs jump at some copies too, but not at all.
    """
    if not names:
        return
    there, generator = model.rotated(rotations), torch.Generator().manual_seed(0)
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for size in NEARBY:
        step = {n: nudge(v.detach(), generator, size).to(there[n]) for n, v in rotating_inputs(model).items()}
        sides = [{n: v + sign * step[n] if n in step else v for n, v in there.items()} for sign in (1, -1)]
        try:
            before, after = (model.at(copies, len(rotations)) for copies in sides)
        except Exception:  # as above
            return
        for name, offs in found.items():
            pairs = list(zip(before[name], after[name], strict=True))
            own = model.unmoved(name)
            offs.append([_root((a + b) / 2 - own) for a, b in pairs])
            spans = [_root(a - b) for a, b in pairs]
            # What bends goes with the square of the step; what is remembered stays as far off.
            lasting = [all(now > LASTS * then for now, then in zip(b, a, strict=True)) for a, b in pairwise(offs)]
            low = _precision(own, model.precision, 1.0 if lasting[-2:] == [True, True] else math.nan)
            limits = [SLOPE * span + ROUNDED * torch.finfo(low).eps * _root(own) for span in spans]
            if lasting[-1:] == [True] and all(off > limit for off, limit in zip(offs[-1], limits, strict=True)):
                yield forgets(name, "the input", max(offs[-1]), max(limits), "")
                return


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


def _displaced(value: Tensor, generator: torch.Generator, size: float) -> Tensor:
    """Entries that are displaced; of whole numbers, as classes on a grid, each another one's."""
    if value.is_floating_point():
        return value + nudge(value, generator, size).to(value)
    return value.flatten()[torch.randint(value.numel(), value.shape, generator=generator).to(value.device)]


def moving_inputs(model: RotatedModel, rotations: Tensor) -> list[str]:
    """The inputs that rotations ``(C, 3, 3)`` change by more than rounding."""
    return [name for name, copies in model.rotated(rotations).items() if is_changed(copies, model.inputs[name])]


def is_changed(copies: Tensor, value: Tensor) -> bool:
    """Whether copies ``(C, *S)`` differ from a value by more than rounding, which those of an atom alone do not."""
    eps = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    own = value.detach().cpu().double()
    change = (copies.detach().cpu().double() - own).abs().nan_to_num().max()
    return float(change) > STAYS * eps * float(own.abs().nan_to_num().max())


def _is_symmetric(model: RotatedModel, name: str, rotations: Tensor) -> bool:
    """Whether an output stays as it is where it is rotated back, as numbers and zeros do."""
    own = model.unmoved(name)
    representation = model.schema.outputs[name]
    back = representation.rotate_back(
        own.expand(len(rotations), *own.shape), rotations, model.centers.about(own, representation)
    )
    return _root(back - own) <= STAYS * torch.finfo(torch.float32).eps * _root(own)


def _can_be_deformed(model: RotatedModel, name: str) -> bool:
    """Whether displacing an input does what no translation does: it is no place, or several of one structure."""
    if not model.schema.inputs[name].is_affine:
        return True
    if model.schema.batch is not None:
        return int(torch.bincount(model.inputs[model.schema.batch].long()).max()) > 1
    points = model.schema.inputs[name].places(model.inputs[name])
    return points.ndim < 2 or points.shape[-2] > 1


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
        difference = _root(there[name] - here, held)
        floors = [_root(other[name] - here, held) for other in (round_trips, repeats) if name in other]
        low = _precision(here, model.precision, floors[0] if name in round_trips else math.nan)
        explained = torch.finfo(low).eps * _root(here, held) * (1 + float(shift.norm()) / max(spread, 1e-6))
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
    between = math.sqrt(sum(_root(one - there) ** 2 for one in nearby) / len(nearby))
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


def rotating_inputs(model: RotatedModel) -> dict[str, Tensor]:
    """The inputs that change when they rotate, which scalars do not."""
    inputs = {name: (rep, model.inputs[name]) for name, rep in model.schema.inputs.items()}
    return {
        name: value
        for name, (rep, value) in inputs.items()
        if not isinstance(rep, Fixed) and rep.event_shape and rep.moves(value) and value.is_floating_point()
    }


def _precision(values: Tensor, given: torch.dtype | None, floor: float) -> torch.dtype:
    """The precision that outputs were computed in: the lowest that holds their digits; single without a floor."""
    known = [one for one in _LOW if bool((values == values.to(one).to(values)).all())]
    known += [given] if given is not None else []
    known += [torch.float32] if not floor > 0 else []
    return max(known, key=lambda one: torch.finfo(one).eps, default=torch.float64)


def _root(values: Tensor, held: Tensor | None = None) -> float:
    """Root mean square of what is finite and no padding."""
    counts = values.isfinite() if held is None else values.isfinite() & held
    return math.sqrt(float(torch.where(counts, values, 0.0).square().sum() / counts.sum().clamp_min(1)))
