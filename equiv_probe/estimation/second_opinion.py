"""A second opinion on a broken output: would another representation, another centre or a usual mistake explain it?

The raw outputs of an orbit cost nothing more to rotate back otherwise. A model whose "vector" is really three
invariants looks broken under the declared representation and perfect under the right one. Where a name leaves no doubt
what a quantity is (forces are vectors), another representation would hide a defect: then the defect is named instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from equiv_probe.estimation.grid_fields import other_fields
from equiv_probe.estimation.other_components import components
from equiv_probe.representations import frames
from equiv_probe.representations import representation as reps
from equiv_probe.representations.grids import Grid
from equiv_probe.representations.voigt import USUAL_ORDERS
from equiv_probe.schema.usual_names import usual

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from equiv_probe.estimation.orbit import Orbit
    from equiv_probe.representations.representation import Representation

FAR_BETTER = 1e-2
"""The other explanation must leave less than this fraction of the declared representation's variance."""
BROKEN = 1e-2
"""Other representations are tried where the variance is more than this fraction of the prediction's own square."""
DIGITS = 4
"""Of the longest component of a vector that is found; what is smaller than its last digit is rounding, and is 0."""
SYMMETRIC = 1e-6
"""Of the largest component: what is left of the antisymmetric part of a symmetric matrix is rounding."""
DECLARED = "is declared as"
"""In the sentences that say of another representation that it fits better."""
SAME = 1e-3
"""Relative difference of two factors on shears that may be rounding, or what else is wrong."""
LEAST = 0.05
"""And how much smaller or larger than the tensor's own they may be."""
_FACTORS = (2.0, 0.5, 2**0.5, 0.5**0.5, -1.0)
"""Engineering shears, their inverse, Mandel's form, and another sign."""
MANY_TIMES = 1e6
"""Less variance than that is none: how much less is rounding."""


class Explanation(NamedTuple):
    """What would explain an orbit.

    Attributes:
        kind: ``"representation"``, ``"own frame"``, ``"inverse"``, ``"twice"``, ``"parity"``, ``"centre"`` or
            ``"constant vector"``.
        sentence: that says so.
        values: the predictions rotated back accordingly, ``(K, *S)``.
    """

    kind: str
    sentence: str
    values: Tensor


@dataclass(frozen=True)
class _Case:
    """An output as it was declared, and its raw predictions ``(K, *S)`` at rotations ``(K, 3, 3)``."""

    name: str
    declared: Representation
    raw: Tensor
    rotations: Tensor
    center: Tensor | None
    variance: float
    is_known: bool
    """Whether its name leaves no doubt that it is what it was declared to be."""
    beside_grid: bool


def second_opinion(orbit: Orbit, name: str, far_better: float = FAR_BETTER) -> str:
    """A sentence if something else fits an output of a kept orbit far better than what was declared; else empty."""
    if orbit.values is None:
        return ""
    variance = _variance(orbit.values[name].flatten(0, 1))
    found = explanations(orbit, name)
    left = [_variance(one.values) for one in found]
    # Of several that explain it equally well, the first.
    enough = min(far_better * variance, 100 * min(left, default=0.0) + 1e-12 * variance)
    return next((one.sentence for one, rest in zip(found, left, strict=True) if rest < enough), "")


def explanations(orbit: Orbit, name: str) -> list[Explanation]:
    """All that may be tried on an output of a kept orbit, whether it explains it or not."""
    declared = orbit.schema.outputs[name]
    if isinstance(declared, Grid):
        return _fields(orbit, name, declared)
    if declared.is_whole or not declared.fits(orbit.kept(name).shape):
        return []
    values, rotations = orbit.kept(name).flatten(0, 1), orbit.rotations.flatten(0, 1)
    variance, center = _variance(values), orbit.centers.get(name)
    if not variance > 0.0:
        return []
    raw = declared.rotate(values, rotations, center)
    known = usual(name, tuple(raw.shape[1:]))
    is_known = known is not None and _kind(known) == _kind(declared)
    beside_grid = any(rep.is_whole for rep in orbit.schema.inputs.values())
    case = _Case(name, declared, raw, rotations, center, variance, is_known, beside_grid)
    # What varies little is at most the same quantity in another form.
    alike = is_known or not variance > BROKEN * float(values.square().mean())
    found = list(_representations(case, alike=alike))
    found += _defects(case) if declared.event_shape else ()
    moved = list(_moved(case))
    if declared == reps.point and beside_grid:
        # Places that hardly leave the middle of a box vary least as scalars: that explains nothing.
        return [one for one in moved if _variance(one.values) < FAR_BETTER * variance] or found
    return [*found, *moved]


def _fields(orbit: Orbit, name: str, declared: Grid) -> list[Explanation]:
    """Other fields for the channels of a grid, which is rotated by rotations of the cube."""
    values, rotations = orbit.kept(name).flatten(0, 1), orbit.rotations.flatten(0, 1)
    if not declared.is_exact or not _variance(values) > BROKEN * float(values.square().mean()):
        return []
    said = f"{name!r} {DECLARED} ep.{declared}, and would vary far less over rotations as {{}}: is it that?"
    others = other_fields(declared, declared.rotate(values, rotations), rotations)
    return [Explanation("representation", said.format(what), back) for what, back in others]


def _representations(case: _Case, *, alike: bool) -> Iterator[Explanation]:
    """Other representations of the same shape; ``alike``: of the same kind alone."""
    whole = None
    if not alike and case.declared == reps.scalar and case.raw.ndim > 2 and case.raw.shape[-1] > 3:
        whole = components(case.raw, case.rotations)
    for other in (*_others(case.declared, case.raw, case.rotations), *([whole] if whole else [])):
        if (alike and _kind(other) != _kind(case.declared)) or (case.center is None and other.is_affine):
            continue
        values = other.rotate_back(case.raw, case.rotations, case.center)
        left = _variance(values)
        many = left * MANY_TIMES < case.variance
        times = f"more than {MANY_TIMES:.0e}" if many else f"{case.variance / left:.2g}"
        sentence = (
            f"{case.name!r} {DECLARED} ep.{case.declared}, but as ep.{other} it would vary {times} times less over "
            f'rotations: is it one? If so, declare outputs={{"{case.name}": ep.{other}}}'
        )
        yield Explanation("representation", sentence, values)


def _defects(case: _Case) -> Iterator[Explanation]:
    """What went wrong with a quantity that is what it is declared to be."""
    name, declared, raw, rotations, center = case.name, case.declared, case.raw, case.rotations, case.center
    if case.is_known:
        yield Explanation(
            "own frame",
            f"{name!r} does not rotate at all: the same numbers in every orientation. It is in a frame of the model's "
            "own (a standardised cell, principal axes, a frame fixed to the structure) and is not rotated back from "
            "it. That is a defect of the model: declaring it ep.scalar would hide it",
            raw,
        )
    inverse = f"{name!r} rotates by the inverse of its input's rotation: R where it should be Rᵀ"
    yield Explanation("inverse", inverse, declared.rotate(raw, rotations, center))
    again = declared.rotate_back(declared.rotate_back(raw, rotations, center), rotations, center)
    twice = f"{name!r} was already rotated with its input, and is rotated once more: it rotates by twice the angle"
    yield Explanation("twice", twice, again)
    if declared == reps.tensor(2) and float((raw - raw.mT).abs().max()) <= SYMMETRIC * float(raw.abs().max()):
        yield from _orders(case)
    if type(declared) is reps.CartesianTensor and bool((torch.linalg.det(rotations) < 0).any()):
        mirrored = reps.tensor(declared.rank, pseudo=not declared.pseudo)
        sign = f"{name!r} does not change its sign under reflection as ep.{declared} does: it behaves as ep.{mirrored}"
        yield Explanation("parity", sign, mirrored.rotate_back(raw, rotations))


def _orders(case: _Case) -> Iterator[Explanation]:
    """A symmetric matrix whose six numbers were in another order, or scaled otherwise, than it was unfolded from."""
    six = torch.stack(
        [case.raw[..., "xyz".index(pair[0]), "xyz".index(pair[1])] for pair in USUAL_ORDERS[0].split()], -1
    )
    for form in _symmetric_forms(six, case.rotations):
        if form == reps.voigt():
            continue
        back, pairs = form.rotate_back(six, case.rotations), form.order.split()
        place = [[next(k for k, pair in enumerate(pairs) if set(pair) == {a, b}) for b in "xyz"] for a in "xyz"]
        scaled = "" if form.shears == 1 else f" with shears times {form.shears:.4g}"
        sentence = (
            f"{case.name!r} rotates as it should if its six components are read as ({form.order}){scaled} and not in "
            f"ASE's order ({USUAL_ORDERS[0]}), with the tensor's own shears. That is a defect, unless it is meant: "
            f'outputs={{"{case.name}": ep.{form}}}'
        )
        yield Explanation("representation", sentence, back[..., place])


def _symmetric_forms(six: Tensor, rotations: Tensor) -> Iterator[reps.Voigt]:
    """Six numbers ``(K, ..., 6)`` in every usual order, as they are and with the factor on shears that fits best.

    Rotated back they are ``a + b/f``, with ``a`` of the diagonal, ``b`` of the shears and the factor ``f``: the
    variance over rotations is least at ``1/f = −⟨a, b⟩/⟨b, b⟩``, each without its mean.
    """
    yield from map(reps.voigt, USUAL_ORDERS)
    for order in USUAL_ORDERS:
        shears = six.new_tensor([float(pair[0] != pair[1]) for pair in order.split()])
        back = [reps.voigt(order).rotate_back(six * part, rotations) for part in (1 - shears, shears)]
        a, b = (one - one.mean(0) for one in back)
        inverse = float(-(a * b).sum() / b.square().sum().clamp_min(torch.finfo(b.dtype).tiny))
        if abs(inverse - 1) > SAME and LEAST < abs(inverse) < 1 / LEAST:
            usual_one = next((f for f in _FACTORS if abs(inverse * f - 1) < SAME), 1 / inverse)
            yield reps.voigt(order, usual_one)


def _moved(case: _Case) -> Iterator[Explanation]:
    """Places about another centre; or arrows with a constant added, which rotate in the same way.

    Rotated back about ``c``, a place is ``g⁻¹ y + (1 − g⁻¹) c``: linear in c, which is found by least squares.
    """
    name, raw = case.name, case.raw
    if raw.shape[-1] != 3 or case.declared not in (reps.point, reps.vector):
        return
    inverse = case.rotations.mT.to(raw)
    lever = torch.eye(3).to(inverse) - inverse
    back = torch.einsum("kij,k...j->k...i", inverse, raw).reshape(len(raw), -1, 3)
    spread = (back - back.mean(0)).mean(1)  # the same c for all rows: their mean tells it
    c = torch.linalg.lstsq((lever - lever.mean(0)).flatten(0, 1), -spread.flatten()[:, None]).solution[:, 0]
    values = back + (lever @ c)[:, None]
    at = _in_digits(c)
    if case.declared == reps.point:
        sentence = f"{name!r} rotates about ({at}) and not about the centre that was taken: "
        sentence += (
            'the middle of the box, if these are positions in voxels from its first sample. If so, center="box"'
            if case.beside_grid
            else f"if its positions are given so, center=torch.tensor([{at}])"
        )
    else:
        sentence = f"{name!r} has a constant vector ({at}) added to it in every orientation: a bias on vectors"
        if not case.is_known:
            sentence += f", or it is a place about that centre: ep.point with center=torch.tensor([{at}])"
    kind = "centre" if case.declared == reps.point else "constant vector"
    yield Explanation(kind, sentence, values.reshape(raw.shape))


def _in_digits(vector: Tensor) -> str:
    """The components of a vector that is not nothing, to as many decimals as its longest one has."""
    exponent = int(f"{float(vector.abs().max()):.{DIGITS - 1}e}".partition("e")[2])
    return ", ".join(f"{round(float(one), DIGITS - 1 - exponent) + 0.0:.{DIGITS}g}" for one in vector)


def _kind(rep: Representation) -> str:
    """What a quantity is, whatever the order and number of its components."""
    if isinstance(rep, reps.Voigt) or rep == reps.tensor(2):
        return "symmetric tensor"
    return str(rep)


def _variance(values: Tensor) -> float:
    return float(values.var(0, correction=0).mean())


def _others(declared: Representation, raw: Tensor, rotations: Tensor) -> Iterator[Representation]:
    """Representations of the same trailing shape that differ from the declared one."""
    shape = tuple(raw.shape[1:])
    candidates: list[Representation] = [reps.scalar]
    if shape[-1:] == (3,):
        candidates += [reps.vector, reps.point, reps.axial]
    if shape[-2:] == (3, 3):
        candidates += [reps.tensor(2), frames.orientation]
    if shape[-1:] == (6,):
        candidates += _symmetric_forms(raw, rotations)
    for candidate in candidates:
        if str(candidate) != str(declared):
            yield candidate
