"""Cartesian components where spherical ones were declared, or the other way round."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.representations.representation import Irreps, irreps, tensor, vector, voigt

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject
    from equiv_probe.representations.representation import Representation

NAME = "Cartesian or spherical"
_CYCLES = {"x, y, z": (0, 1, 2), "y, z, x": (1, 2, 0), "z, x, y": (2, 0, 1)}


@experiment(NAME, "conventions", "Are components Cartesian where spherical ones were declared, or otherwise?", cost=0)
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
        yield finding(NAME, name, best, sentence, advice, exact=True)


def _components(rep: Representation) -> int:
    return int(torch.Size(rep.event_shape).numel()) if rep.event_shape and not rep.is_affine else 0


def _others(declared: Representation) -> list[Representation]:
    if isinstance(declared, Irreps):
        cartesian: dict[int, list[Representation]] = {3: [vector], 6: [voigt()], 9: [tensor(2)]}
        return [*cartesian.get(_components(declared), []), declared]
    spherical = {6: "1x0e+1x2e", 9: "1x0e+1x1e+1x2e"}
    wanted = spherical.get(_components(declared))
    return [irreps(wanted)] if wanted else []
