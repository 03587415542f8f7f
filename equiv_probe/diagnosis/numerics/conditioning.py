"""Rounding that the model amplifies, told from a jump by inputs that differ a hundred times more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.estimation.verdict import AMPLIFIED

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "amplified rounding"
_MORE = 100.0
_GROWS = 30.0
"""Of these, by which a smooth response grows at least; one of steps, as of inputs that are cut, grows by ten."""
_TRIES = 4


@experiment(NAME, "numerics", "Does the model make much of the last digit of its input?", cost=2 * _TRIES)
def conditioning(subject: Subject) -> Findings:
    """Inputs that differ by rounding, and by a hundred times that: a smooth model's response grows as much."""
    eps = torch.finfo(subject.precision).eps
    if not any(subject.floor(name) > AMPLIFIED * eps * _size(subject, name) for name in subject.broken):
        raise NotApplicable("inputs that differ by rounding alone give outputs that do, too")
    small, large = (_responses(subject, eps * times) for times in (4.0, 4.0 * _MORE))
    for name in subject.broken:
        response, error = small[name], subject.error(name)
        noisy = subject.noise(name) > response / 3
        if response < AMPLIFIED * eps * _size(subject, name) or large[name] < _GROWS * response or noisy:
            continue
        # Rounding on the way to the rotated copy and in the first layers: a few spacings.
        part = min(1.0, (10 * response / error) ** 2) if error > 0 else math.nan
        times = response / (4 * eps * subject.size(name))
        sentence = (
            f"{name!r} changes by {subject.amount(name, response)} if the inputs change in their last digits: "
            f"{times:.0f} times more, relative to its size, than they do"
        )
        advice = (
            "Look for differences of nearly equal numbers, divisions by what may vanish (distances, norms, gaps of "
            "eigenvalues), arccos near ±1, and large constants that are added and taken away again; compute those in "
            "float64."
        )
        yield Finding(NAME, name, sentence, advice, "cause", error, max(0.0, error - 10 * response), part)


def _size(subject: Subject, name: str) -> float:
    return max(subject.size(name), subject.natural(name))


def _responses(subject: Subject, relative: float) -> dict[str, float]:
    """Root mean square by which outputs change if inputs do by a part of their size."""
    own = subject.identity
    squares = dict.fromkeys(own, 0.0)
    for seed in range(_TRIES):
        generator = torch.Generator().manual_seed(seed)
        found = subject.at({**subject.inputs, **_moved(subject, relative, generator)})
        for name, value in found.items():
            squares[name] += root(value - own[name]) ** 2 / _TRIES
    return {name: math.sqrt(square) for name, square in squares.items()}


def _moved(subject: Subject, relative: float, generator: torch.Generator) -> dict[str, Tensor]:
    found = {}
    for name, value in subject.model.rotated(None).items():
        noise = torch.randn(value[0].shape, generator=generator, dtype=torch.float64)
        found[name] = (value[0] + relative * root(value[0]) * noise.to(value.device)).to(value.dtype)
    return found
