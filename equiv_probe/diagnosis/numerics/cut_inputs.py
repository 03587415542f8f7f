"""Inputs that the model rounds to fewer digits before it uses them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "inputs cut"
SAME = 32.0
"""Units in the last place by which outputs of the same input may differ."""
COPIES = 4
"""Rotated copies at which outputs must be the same: at one or two they may be by chance."""
_JITTERED = 6


@experiment(NAME, "numerics", "Are inputs rounded to fewer digits than they have?", cost=2 * COPIES + _JITTERED)
def cut_inputs(subject: Subject) -> Findings:
    """Outputs that are the same at inputs rounded to a lower precision never saw the other digits.

    How much error that makes is what moving the inputs by as much does to the outputs.
    """
    copies = subject.model.rotated(subject.rotations[:COPIES])  # as they are given, coordinates may have few digits
    moving = [name for name, value in copies.items() if value.is_floating_point()]
    kind = next((copies[name].dtype for name in moving), None)
    lower = [one for one in (torch.bfloat16, torch.float16, torch.float32) if kind and _is_lower(one, kind, subject)]
    if not lower:
        raise NotApplicable("inputs have no more digits than the model works with")
    each = [{**subject.inputs, **{name: value[k] for name, value in copies.items()}} for k in range(COPIES)]
    known = [subject.at(inputs) for inputs in each]
    for low in lower:
        cut = [{name: inputs[name].to(low).to(inputs[name].dtype) for name in moving} for inputs in each]
        found = [subject.at({**inputs, **rounded}) for inputs, rounded in zip(each, cut, strict=True)]
        inputs, own = each[0], known[0]
        blind = [
            name
            for name in subject.broken
            if all(_alike(subject, name, there, here) for there, here in zip(found, known, strict=True))
        ]
        if not blind:
            continue
        moved = [subject.at({**inputs, **_jittered(inputs, moving, low, seed)}) for seed in range(_JITTERED)]
        for name in blind:
            if 2 * sum(_alike(subject, name, one, own) for one in moved) > len(moved):
                continue  # it has few values anyhow: that some are the same says nothing
            made = math.sqrt(sum(root(one[name] - own[name]) ** 2 for one in moved) / len(moved))
            error = subject.error(name)
            part = min(1.0, (made / error) ** 2) if error > 0 else math.nan
            kind_ = str(low).removeprefix("torch.")
            sentence = (
                f"{name!r} is the same if the inputs are rounded to {kind_} first: the model cuts "
                f"them. Moving them by as much changes it by {number(made, 2)}, beside a symmetry error of "
                f"{number(error, 2)}"
            )
            advice = (
                f"Look for .to(torch.{kind_}), .half() or a cast of positions; differences of them need all digits."
            )
            yield Finding(NAME, name, sentence, advice, "cause", error, max(0.0, error - made), part, True)
        return


def _alike(subject: Subject, name: str, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether an output is the same, but for sums that begin elsewhere in memory."""
    return root(one[name] - other[name]) <= SAME * torch.finfo(subject.precision).eps * subject.size(name)


def _is_lower(low: torch.dtype, kind: torch.dtype, subject: Subject) -> bool:
    return torch.finfo(low).eps > max(torch.finfo(kind).eps, torch.finfo(subject.precision).eps)


def _jittered(inputs: dict[str, Any], moving: list[str], low: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Inputs moved by up to a spacing of the lower precision either way, as its rounding does twice."""
    generator = torch.Generator().manual_seed(seed)
    eps = torch.finfo(low).eps
    found = {}
    for name in moving:
        value = inputs[name]
        spacing = eps * torch.exp2(value.abs().clamp_min(1e-30).log2().floor())
        found[name] = value + spacing * (torch.rand(value.shape, generator=generator).to(value) - 0.5)
    return found
