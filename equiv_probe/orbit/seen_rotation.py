"""Whether outputs depend on what was rotated: on inputs that rotation changes, and on nothing that is remembered."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.controls import Control, forgets, nothing_rotates, sees_rotation
from equiv_probe.representations.representation import Fixed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from equiv_probe.orbit.rotated_model import RotatedModel

NUDGE = 0.1
"""Displacement of every coordinate, relative to the spread of all."""
LARGE_NUDGE = 1.0
"""Of a second displacement, for outputs of few digits."""
STAYS = 4.0
"""Spacings of the largest coordinate by which an input that does not rotate (an atom about itself) may change."""
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
_LOW = (torch.bfloat16, torch.float16, torch.float32)


def nudge(value: Tensor, generator: torch.Generator, size: float = NUDGE) -> Tensor:
    """Random displacements of each entry, which no rotation makes, float32, ``size`` times the spread of all entries.

    Entries that are not finite count as zero; the generator is on the CPU, so that all devices draw the same numbers.
    """
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.device)
    finite = torch.where(value.isfinite(), value, 0.0).float()
    return noise * (size * finite.std(unbiased=False).clamp_min(1e-6))


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
            offs.append([root_of((a + b) / 2 - own) for a, b in pairs])
            spans = [root_of(a - b) for a, b in pairs]
            # What bends goes with the square of the step; what is remembered stays as far off.
            lasting = [all(now > LASTS * then for now, then in zip(b, a, strict=True)) for a, b in pairwise(offs)]
            low = digits_of(own, model.precision, 1.0 if lasting[-2:] == [True, True] else math.nan)
            limits = [SLOPE * span + ROUNDED * torch.finfo(low).eps * root_of(own) for span in spans]
            if lasting[-1:] == [True] and all(off > limit for off, limit in zip(offs[-1], limits, strict=True)):
                yield forgets(name, "the input", max(offs[-1]), max(limits), "")
                return


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
    return root_of(back - own) <= STAYS * torch.finfo(torch.float32).eps * root_of(own)


def _can_be_deformed(model: RotatedModel, name: str) -> bool:
    """Whether displacing an input does what no translation does: it is no place, or several of one structure."""
    if not model.schema.inputs[name].is_affine:
        return True
    if model.schema.batch is not None:
        return int(torch.bincount(model.inputs[model.schema.batch].long()).max()) > 1
    points = model.schema.inputs[name].places(model.inputs[name])
    return points.ndim < 2 or points.shape[-2] > 1


def rotating_inputs(model: RotatedModel) -> dict[str, Tensor]:
    """The inputs that change when they rotate, which scalars do not."""
    inputs = {name: (rep, model.inputs[name]) for name, rep in model.schema.inputs.items()}
    return {
        name: value
        for name, (rep, value) in inputs.items()
        if not isinstance(rep, Fixed) and rep.event_shape and rep.moves(value) and value.is_floating_point()
    }


def digits_of(values: Tensor, given: torch.dtype | None, floor: float) -> torch.dtype:
    """The precision that outputs were computed in: the lowest that holds their digits; single without a floor."""
    known = [one for one in _LOW if bool((values == values.to(one).to(values)).all())]
    known += [given] if given is not None else []
    known += [torch.float32] if not floor > 0 else []
    return max(known, key=lambda one: torch.finfo(one).eps, default=torch.float64)


def root_of(values: Tensor, held: Tensor | None = None) -> float:
    """Root mean square of what is finite and no padding."""
    counts = values.isfinite() if held is None else values.isfinite() & held
    return math.sqrt(float(torch.where(counts, values, 0.0).square().sum() / counts.sum().clamp_min(1)))
