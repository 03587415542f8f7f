"""A second opinion on a broken output: would another representation, another centre or a usual mistake explain it?

The raw outputs of an orbit cost nothing more to rotate back otherwise. A model whose "vector" is really three
invariants looks broken under the declared representation and perfect under the right one. Where a name leaves no doubt
what a quantity is (forces are vectors), another representation would hide a defect: then the defect is named instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from equiv_probe.representations import frames
from equiv_probe.representations import representation as reps
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


@dataclass(frozen=True)
class Explanation:
    """What would explain an orbit.

    Attributes:
        kind: ``"representation"``, ``"own frame"``, ``"inverse"``, ``"twice"``, ``"parity"``, ``"centre"``, or
            ``"constant vector"``.
        sentence: that says so.
        values: the predictions rotated back accordingly, ``(K, *S)``.
    """

    kind: str
    sentence: str
    values: Tensor


def second_opinion(orbit: Orbit, name: str) -> str:
    """One sentence if something else fits an output far better than the declared representation; empty otherwise.

    Args:
        orbit: kept; without the values there is no second opinion.
        name: of the output.
    """
    if orbit.values is None:
        return ""
    variance = _variance(orbit.values[name].flatten(0, 1))
    found = explanations(orbit, name)
    left = [_variance(one.values) for one in found]
    # Of several that explain it equally well, the first.
    enough = min(FAR_BETTER * variance, 100 * min(left, default=0.0) + 1e-12 * variance)
    return next((one.sentence for one, rest in zip(found, left, strict=True) if rest < enough), "")


def explanations(orbit: Orbit, name: str) -> list[Explanation]:
    """All that was tried on an output with an orbit that varies, whether it explains it or not; arguments as above."""
    declared = orbit.schema.outputs[name]
    if declared.is_whole or not declared.fits(orbit.kept(name).shape):  # nothing else has the shape of a grid
        return []
    values, rotations = orbit.kept(name).flatten(0, 1), orbit.rotations.flatten(0, 1)
    variance = _variance(values)
    if not variance > 0.0:
        return []
    center = orbit.centers.get(name)
    raw = declared.rotate(values, rotations, center)
    known = usual(name, tuple(raw.shape[1:]))
    is_known = known is not None and _kind(known) == _kind(declared)
    found: list[Explanation] = []
    if variance > BROKEN * float(values.square().mean()):
        others = [other for other in _others(declared, raw) if not is_known or _kind(other) == _kind(declared)]
        found += _representations(orbit, name, others, raw)
    if declared.event_shape:
        found += _defects(orbit, name, raw, is_known=is_known)
    moved = list(_moved(orbit, name, raw, is_known=is_known))
    if declared == reps.point and any(rep.is_whole for rep in orbit.schema.inputs.values()):
        # Places that hardly leave the middle of a box vary least as scalars: that explains nothing.
        found = [one for one in moved if _variance(one.values) < FAR_BETTER * variance] or found
    else:
        found += moved
    return found


def _representations(orbit: Orbit, name: str, others: list[Representation], raw: Tensor) -> Iterator[Explanation]:
    """Other representations of the same shape."""
    declared, center = orbit.schema.outputs[name], orbit.centers.get(name)
    rotations, variance = orbit.rotations.flatten(0, 1), _variance(orbit.kept(name).flatten(0, 1))
    for other in others:
        if center is None and other.is_affine:
            continue
        values = other.rotate_back(raw, rotations, center)
        times = f"{variance / max(_variance(values), 1e-300):.2g}"
        sentence = (
            f"{name!r} is declared as ep.{declared}, but as ep.{other} it would vary {times} times less over "
            f'rotations: is it one? If so, declare outputs={{"{name}": ep.{other}}}'
        )
        yield Explanation("representation", sentence, values)


def _defects(orbit: Orbit, name: str, raw: Tensor, *, is_known: bool) -> Iterator[Explanation]:
    """What went wrong with a quantity that is what it is declared to be."""
    declared, center = orbit.schema.outputs[name], orbit.centers.get(name)
    rotations = orbit.rotations.flatten(0, 1)
    if is_known:
        yield Explanation(
            "own frame",
            f"{name!r} does not rotate at all: the same numbers in every orientation. It is in a frame of the model's "
            "own (a standardised cell, principal axes, a frame fixed to the structure) and is not rotated back from "
            "it. That is a defect of the model: declaring it ep.scalar would hide it",
            raw,
        )
    yield Explanation(
        "inverse",
        f"{name!r} rotates by the inverse of its input's rotation: R where it should be Rᵀ",
        declared.rotate(raw, rotations, center),
    )
    again = declared.rotate_back(declared.rotate_back(raw, rotations, center), rotations, center)
    yield Explanation(
        "twice",
        f"{name!r} was already rotated with its input, and is rotated once more: it rotates by twice the angle",
        again,
    )
    if type(declared) is reps.CartesianTensor and bool((torch.linalg.det(rotations) < 0).any()):
        mirrored = reps.tensor(declared.rank, pseudo=not declared.pseudo)
        yield Explanation(
            "parity",
            f"{name!r} does not change its sign under reflection as ep.{declared} does: it behaves as ep.{mirrored}",
            mirrored.rotate_back(raw, rotations),
        )


def _moved(orbit: Orbit, name: str, raw: Tensor, *, is_known: bool) -> Iterator[Explanation]:
    """Places about another centre; or arrows with a constant added, which rotate in the same way.

    Rotated back about ``c``, a place is ``g⁻¹ y + (1 − g⁻¹) c``: linear in c, which is found by least squares.
    """
    declared = orbit.schema.outputs[name]
    if raw.shape[-1] != 3 or declared not in (reps.point, reps.vector):
        return
    inverse = orbit.rotations.flatten(0, 1).mT.to(raw)
    back = torch.einsum("kij,k...j->k...i", inverse, raw).reshape(len(raw), -1, 3)
    lever = torch.eye(3, dtype=raw.dtype, device=raw.device) - inverse
    lever = lever - lever.mean(0)
    spread = (back - back.mean(0)).mean(1)  # the same c for all rows: their mean tells it
    c = torch.linalg.lstsq(lever.flatten(0, 1), -spread.flatten()[:, None]).solution[:, 0]
    values = back + torch.einsum("kij,j->ki", torch.eye(3).to(inverse) - inverse, c)[:, None]
    at = ", ".join(f"{float(one):.4g}" for one in c)
    if declared == reps.point:
        box = any(rep.is_whole for rep in orbit.schema.inputs.values())
        sentence = f"{name!r} rotates about ({at}) and not about the centre that was taken"
        if box:
            sentence += (
                ': the middle of the box, if these are positions in voxels from its first sample. If so, center="box"'
            )
        else:
            sentence += f": if its positions are given so, center=torch.tensor([{at}])"
    else:
        sentence = f"{name!r} has a constant vector ({at}) added to it in every orientation: a bias on vectors"
        if not is_known:
            sentence += f", or it is a place about that centre: ep.point with center=torch.tensor([{at}])"
    kind = "centre" if declared == reps.point else "constant vector"
    yield Explanation(kind, sentence, values.reshape(raw.shape))


def _kind(rep: Representation) -> str:
    """What a quantity is, whatever the order and number of its components."""
    if isinstance(rep, reps.Voigt) or rep == reps.tensor(2):
        return "symmetric tensor"
    return str(rep)


def _variance(values: Tensor) -> float:
    return float(values.var(0, correction=0).mean())


def _others(declared: Representation, raw: Tensor) -> Iterator[Representation]:
    """Representations of the same trailing shape that differ from the declared one."""
    shape = tuple(raw.shape[1:])
    candidates: list[Representation] = [reps.scalar]
    if shape[-1:] == (3,):
        candidates += [reps.vector, reps.point, reps.axial]
    if shape[-2:] == (3, 3):
        candidates += [reps.tensor(2), frames.orientation]
    if shape[-1:] == (6,):
        candidates += [reps.voigt(), reps.voigt("xx yy zz xy yz xz"), reps.voigt("xx xy xz yy yz zz")]
    for candidate in candidates:
        if str(candidate) != str(declared):
            yield candidate
