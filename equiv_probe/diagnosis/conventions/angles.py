"""Angles: of outputs, spherical coordinates or an angle that wraps around, and of what goes into sines inside."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from equiv_probe.diagnosis.evaluation import under
from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.estimation.verdict import AMPLIFIED
from equiv_probe.report.formatting import number
from equiv_probe.representations.representation import vector

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

ANGLES, UNITS = "angles", "units of angle"
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
_READ = {
    "degrees and taken for radians": math.pi / 180,
    "radians and taken for degrees": 180 / math.pi,
}


@experiment(ANGLES, "conventions", "Is an output in angles: spherical coordinates, or one that wraps around?", cost=0)
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
    label, best = subject.best(name, tried)
    sentence = f"{name!r} rotates as a vector if its components are read as spherical coordinates, {label}"
    advice = "Give Cartesian components: r (sin θ cos φ, sin θ sin φ, cos θ), with θ and φ in radians."
    yield finding(ANGLES, name, best, sentence, advice, exact=True)


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
        yield finding(ANGLES, name, best, sentence, advice, exact=True)


class _Rescaled(TorchFunctionMode):
    """Sine, cosine and tangent of a multiple of their argument; counts how often they are called."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.calls = factor, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See :class:`torch.overrides.TorchFunctionMode`."""
        if getattr(func, "__name__", "") in {"sin", "cos", "tan"} and args:
            self.calls += 1
            args = (args[0] * self.factor, *args[1:])
        return func(*args, **(kwargs or {}))


@experiment(
    UNITS, "conventions", "Are angles inside of it in degrees where radians are expected, or otherwise?", cost=2 * FEW
)
def units_of_angle(subject: Subject) -> Findings:
    """Sine, cosine and tangent of all arguments in the other unit.

    Where they are of invariants, as in radial functions, that changes nothing. A smaller argument also makes a smaller
    error, so it must go altogether.
    """
    for words, factor in _READ.items():
        mode = _Rescaled(factor)
        after = subject.again(predict=under(lambda: mode, subject.predict))  # noqa: B023 - it is called at once
        if not mode.calls:
            raise NotApplicable("no sine, cosine or tangent is seen in it")
        for name in subject.broken:
            best = subject.compare(name, after[name], candidates=len(_READ))
            if best.after > AMPLIFIED * subject.rounding(name):
                continue
            sentence = f"{name!r} rotates as it should if the arguments of sine and cosine are in {words}"
            advice = "Convert once: torch.deg2rad where angles come in, and radians from there on."
            yield finding(UNITS, name, best, sentence, advice, exact=True)
