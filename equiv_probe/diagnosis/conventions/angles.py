"""Outputs that are angles: spherical coordinates in degrees or radians, or an angle that wraps around."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.report.formatting import number
from equiv_probe.representations.representation import vector

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "angles"
_TURNS = {"radians": 2 * math.pi, "degrees": 360.0}
WITHIN = 0.01
"""Of a whole turn that may be left of an angle's error: what wraps by accident is spread over a third of it."""
_READINGS = {
    "(r, polar angle, azimuth)": (1, 2, 0.0),
    "(r, azimuth, polar angle)": (2, 1, 0.0),
    "(r, elevation, azimuth)": (1, 2, 0.25),
    "(r, azimuth, elevation)": (2, 1, 0.25),
}
"""Where the angle from the z axis and the azimuth are, and by which part of a turn the former is counted from there."""


@experiment(NAME, "conventions", "Is an output in angles: spherical coordinates, or one that wraps around?", cost=0)
def angles(subject: Subject) -> Findings:
    """Read three components as spherical coordinates, and compare single numbers up to whole turns."""
    asked = [name for name in subject.broken if subject.schema.outputs[name].event_shape in {(), (3,)}]
    if not asked:
        raise NotApplicable("no broken output is a number or has three components")
    for name in asked:
        whole = subject.schema.outputs[name].event_shape == ()
        yield from (_that_wraps if whole else _spherical)(subject, name)


def _spherical(subject: Subject, name: str) -> Findings:
    raw = subject.raw(name)
    tried = {}
    for unit, turn in _TURNS.items():
        for label, reading in _READINGS.items():
            back = vector.rotate_back(_cartesian(raw, turn, *reading), subject.rotations)
            scale = (raw.square().mean() / back.square().mean().clamp_min(1e-300)).sqrt()
            tried[f"{label} in {unit}"] = back * scale
    compared = {label: subject.compare(name, back, candidates=len(tried)) for label, back in tried.items()}
    label, best = max(compared.items(), key=lambda one: one[1].part)
    sentence = f"{name!r} rotates as a vector if its components are read as spherical coordinates, {label}"
    advice = "Give Cartesian components: r (sin θ cos φ, sin θ sin φ, cos θ), with θ and φ in radians."
    yield finding(NAME, name, best, sentence, advice, exact=True)


def _cartesian(values: Tensor, turn: float, polar: int, azimuth: int, offset: float) -> Tensor:
    """Vectors ``(K, *, 3)`` of spherical coordinates, whose angles have ``turn`` to the circle."""
    theta, phi = (2 * math.pi / turn * values[..., place] for place in (polar, azimuth))
    theta = 2 * math.pi * offset - theta if offset else theta
    flat = values[..., 0] * theta.sin()
    return torch.stack([flat * phi.cos(), flat * phi.sin(), values[..., 0] * theta.cos()], -1)


def _that_wraps(subject: Subject, name: str) -> Findings:
    own = subject.values[name]
    for unit, turn in _TURNS.items():
        wrapped = own - turn * ((own - own[0]) / turn).round()
        best = subject.compare(name, wrapped, candidates=len(_TURNS))
        if best.after > WITHIN * turn:
            continue
        sentence = f"{name!r} changes by whole turns of {number(turn, 3)} alone: it is an angle in {unit} that wraps"
        advice = (
            "Compare and average angles by their sine and cosine: at ±half a turn the last digit decides on which side "
            "they lie. Losses of such an output jump, too."
        )
        yield finding(NAME, name, best, sentence, advice, exact=True)
