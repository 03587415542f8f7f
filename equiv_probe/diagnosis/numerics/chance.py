"""Chance: a model that gives something else each time it is asked."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.evaluation import under
from equiv_probe.diagnosis.experiment import experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.estimation.verdict import CHANCE_FACTOR
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "chance"
REPEATS = 8


@experiment(NAME, "numerics", "Does the same input give the same output again?", cost=7, needs_error=False)
def chance(subject: Subject) -> Findings:
    """Compare with the same random state for every call, and, of a module, in evaluation mode."""
    if not any(subject.noise(name) > 0 for name in subject.outputs):
        return
    repeats = [subject.at(subject.inputs) for _ in range(REPEATS)]
    noises = {n: float(torch.stack([one[n] for one in repeats]).var(0).mean().sqrt()) for n in subject.outputs}
    noisy = [name for name in subject.outputs if _is_noisy(subject, name, noises[name])]
    if not noisy:
        return
    seeded = subject.again(predict=under(_same_random_state, subject.predict))
    quiet = None
    if subject.module is not None and any(part.training for part in subject.module.modules()):
        with evaluating(subject.module):
            quiet = subject.again()
    for name in noisy:
        noise, error = noises[name], subject.error(name)
        tried = {"with the same random state at every call": subject.compare(name, seeded[name])}
        if quiet is not None:
            tried["in evaluation mode, model.eval()"] = subject.compare(name, quiet[name])
        how, best = max(tried.items(), key=lambda one: one[1].part)
        sentence = (
            f"{name!r}, evaluated again at the very same input, differs by {subject.amount(name, noise)}"
            f", beside {number(error, 2)} over rotations"
        )
        if best.part > 0.5:
            sentence += f"; {how} {number(100 * best.part, 2)} % of the squared error go"
            part, after, certain = best.part, best.after, best.certain
        else:  # atomics, races, a generator of its own: nothing holds it still
            part, after, certain = min(1.0, (CHANCE_FACTOR * noise / error) ** 2), error, True
            sentence += "; neither a fixed random state nor evaluation mode changes that"
        advice = (
            "Call model.eval() (dropout, batch normalisation), seed what is drawn in forward, and ask for "
            "deterministic kernels: torch.use_deterministic_algorithms(True). Of a model that is meant to draw, "
            "compare means."
        )
        yield Finding(NAME, name, sentence, advice, "cause", error, after, part, certain)


def _is_noisy(subject: Subject, name: str, noise: float) -> bool:
    return noise > 100 * torch.finfo(subject.precision).eps * subject.size(name) and noise > subject.error(name) / 10


@contextmanager
def _same_random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode; each part's own mode comes back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
