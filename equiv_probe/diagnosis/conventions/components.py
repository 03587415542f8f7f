"""Components that are others than was declared: axes in another order, Voigt's six in another, spherical ones."""

from __future__ import annotations

import importlib.util
from itertools import permutations, product
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.representations.representation import Irreps, Voigt, irreps, tensor, vector, voigt

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject
    from equiv_probe.representations.representation import Representation

AXES = "order of axes"
VOIGT = "Voigt order"
_ASE = "xx yy zz yz xz xy"
_FACTORS = {"": 1.0, ", with shears doubled": 2.0, ", with shears halved": 0.5, ", with shears times √2": 2**0.5}
BASIS = "Cartesian or spherical"
_CYCLES = {"x, y, z": (0, 1, 2), "y, z, x": (1, 2, 0), "z, x, y": (2, 0, 1)}


@experiment(
    AXES, "conventions", "Does it rotate as it should with its axes in another order, or some reversed?", cost=0
)
def order_of_axes(subject: Subject) -> Findings:
    """Rotate back by ``P g Pᵀ``, for every signed permutation ``P`` but the identity; ``P`` and ``−P`` are the same.

    For a vector this is exact if the model gives ``P v``; irreps and tensors of any rank are served alike, since it is
    the rotation that is written in other axes and not the components.
    """
    for name in subject.broken:
        rep = subject.schema.outputs[name]
        if not rep.event_shape or rep.is_affine or rep.is_whole:
            continue
        raw = subject.raw(name)
        tried = {
            label: rep.rotate_back(raw, matrix @ subject.rotations @ matrix.mT)
            for label, matrix in _signed_permutations().items()
        }
        label, best = subject.best(name, tried)
        sentence = (
            f"{name!r} rotates as it should if its axes are read as ({label}) where (x, y, z) was expected, up to a "
            "sign of the whole"
        )
        advice = (
            "Permute the components, or declare the order that the model uses. Spherical harmonics of degree 1 are "
            "often stored as (y, z, x); a left-handed frame shows as one reversed axis."
        )
        yield finding(AXES, name, best, sentence, advice, exact=True)


def _signed_permutations() -> dict[str, Tensor]:
    """The 23 signed permutations beside the identity that differ by more than a sign of the whole, by their names."""
    found: dict[str, Tensor] = {}
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=2):
            own = (1.0, *signs)
            if order == (0, 1, 2) and signs == (1.0, 1.0):
                continue
            matrix = torch.zeros(3, 3, dtype=torch.float64)
            for row, (axis, sign) in enumerate(zip(order, own, strict=True)):
                matrix[row, axis] = sign
            label = ", ".join(("" if sign > 0 else "−") + "xyz"[axis] for axis, sign in zip(order, own, strict=True))
            found[label] = matrix
    return found


@experiment(VOIGT, "conventions", "Are the components of a symmetric tensor in another order, or scaled?", cost=0)
def voigt_order(subject: Subject) -> Findings:
    """Read the six numbers in every usual order, with the usual factors on the shears."""
    names = [name for name in subject.broken if _is_symmetric(subject, name)]
    if not names:
        raise NotApplicable("no broken output is a symmetric tensor")
    for name in names:
        six, declared = _six(subject, name)
        before = _relative(voigt(declared).rotate_back(six, subject.rotations))
        tried = {}
        for order, (label, factor) in product(_orders(), _FACTORS.items()):
            if order == declared and factor == 1.0:
                continue
            # Relative to their size: a factor below one makes any error smaller.
            values = _relative(voigt(order).rotate_back(_unscaled(six, order, factor), subject.rotations))
            tried[order + label] = values
        label = min(tried, key=lambda one: float(tried[one].var(0).mean()))
        # In the units of the output: the same scale before and after.
        scale = subject.error(name) / float(before.var(0).mean().sqrt())
        best = subject.compare(name, scale * tried[label], scale * before, candidates=len(tried))
        sentence = f"{name!r} rotates as a symmetric tensor if its components are read as ({label})"
        advice = (
            f"Bring them into the order that was declared ({declared}); ASE's is {_ASE}, and engineering shears are "
            "twice the tensor's own."
        )
        yield finding(VOIGT, name, best, sentence, advice, exact=True)


def _is_symmetric(subject: Subject, name: str) -> bool:
    rep, values = subject.schema.outputs[name], subject.values[name]
    return isinstance(rep, Voigt) or (rep == tensor(2) and torch.allclose(values, values.mT, rtol=1e-4, atol=1e-12))


def _six(subject: Subject, name: str) -> tuple[Tensor, str]:
    """The raw numbers ``(K, …, 6)``, and the order in which they are declared."""
    rep, raw = subject.schema.outputs[name], subject.raw(name)
    if isinstance(rep, Voigt):
        return raw, rep.order
    return raw[..., [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], _ASE


def _orders() -> list[str]:
    diagonal, shears = ("xx", "yy", "zz"), ("yz", "xz", "xy")
    first = [" ".join((*d, *s)) for d in permutations(diagonal) for s in permutations(shears)]
    return [*first, "xx xy xz yy yz zz", "xx xy yy xz yz zz"]


def _unscaled(six: Tensor, order: str, factor: float) -> Tensor:
    scale = [1 / factor if pair[0] != pair[1] else 1.0 for pair in order.split()]
    return six * six.new_tensor(scale)


def _relative(values: Tensor) -> Tensor:
    return values / values.square().mean().sqrt()


@experiment(BASIS, "conventions", "Are components Cartesian where spherical ones were declared, or otherwise?", cost=0)
def cartesian_or_spherical(subject: Subject) -> Findings:
    """Rotate back as what has as many components, spherical ones in each cyclic order of the axes."""
    names = [name for name in subject.broken if _components(subject.schema.outputs[name]) in {3, 5, 6, 9}]
    if not names:
        raise NotApplicable("no broken output has 3, 5, 6 or 9 components")
    if importlib.util.find_spec("e3nn") is None:
        raise NotApplicable("it takes e3nn: pip install 'equiv-probe[irreps]'")
    for name in names:
        declared, raw = subject.schema.outputs[name], subject.raw(name)
        flat = raw.reshape(*raw.shape[: raw.ndim - len(declared.event_shape)], _components(declared))
        tried = {}
        for other in _others(declared):
            for label, cycle in _CYCLES.items():
                axes = torch.eye(3, dtype=torch.float64)[list(cycle)]
                rotations = axes @ subject.rotations @ axes.mT
                back = other.rotate_back(flat.reshape(*flat.shape[:-1], *other.event_shape), rotations)
                tried[f"ep.{other}, axes in the order ({label})"] = back.reshape(raw.shape)
        if not tried:
            continue
        label, best = subject.best(name, tried)
        sentence = f"{name!r} is declared as ep.{declared}, but rotates as {label}"
        advice = "Declare what the model gives, or change its basis: spherical harmonics are not Cartesian components."
        yield finding(BASIS, name, best, sentence, advice, exact=True)


def _components(rep: Representation) -> int:
    return int(torch.Size(rep.event_shape).numel()) if rep.event_shape and not rep.is_affine else 0


def _others(declared: Representation) -> list[Representation]:
    if isinstance(declared, Irreps):
        cartesian: dict[int, list[Representation]] = {3: [vector], 6: [voigt()], 9: [tensor(2)]}
        return [*cartesian.get(_components(declared), []), declared]
    spherical = {6: "1x0e+1x2e", 9: "1x0e+1x1e+1x2e"}
    wanted = spherical.get(_components(declared))
    return [irreps(wanted)] if wanted else []
