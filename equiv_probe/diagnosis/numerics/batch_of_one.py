"""A structure that gets something else in a batch than alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.diagnosis.atom_indices import atom_indices
from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.schema.batch_layout import primary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from equiv_probe.diagnosis.subject import Subject

NAME = "batch"
ROUNDING = 1e3
"""Units in the last place that another order of sums may cost."""
MOST = 4
"""Structures that are evaluated alone."""


@experiment(NAME, "numerics", "Does a structure get alone what it gets in its batch?", cost=MOST, needs_error=False)
def batch_of_one(subject: Subject) -> Iterator[Finding]:
    """The first structures of the batch, one at a time."""
    index = subject.schema.batch
    count, own = _count(subject)
    worst: dict[str, float] = dict.fromkeys(subject.outputs, 0.0)
    for place in range(min(MOST, count)):
        chosen = own(place)
        alone = _chosen(subject.inputs, chosen, count, place)
        if index is not None:
            alone[index] = torch.zeros_like(alone[index])
        found = _alone(subject, alone)
        for name in subject.outputs:
            shared = _chosen(subject.identity, chosen, count, place)[name]
            if shared.shape == found[name].shape:
                change = root(found[name] - shared)
                worst[name] = worst[name] if change <= worst[name] else change  # NaN counts as a change
    for name, change in worst.items():
        allowed = max(subject.rounding(name), ROUNDING * torch.finfo(subject.precision).eps * subject.size(name))
        if not change <= allowed:
            sentence = (
                f"{name!r} of a structure changes by {subject.amount(name, change)} if it is evaluated alone and not "
                f"in a batch of {count}"
            )
            advice = (
                "Look for padding that is not masked, batch normalisation in training mode, pooling over the whole "
                "batch, and capacity limits that a batch shares."
            )
            yield Finding(NAME, name, sentence, advice, "beside", change, allowed)


def _alone(subject: Subject, inputs: dict[str, Any]) -> Mapping[str, Tensor]:
    """Outputs of one structure; beside a copy of itself where a model takes no batch of one, as while it trains."""
    try:
        return subject.at(inputs)
    except (Exception, SystemExit):
        if subject.schema.batch is not None:
            raise
        one = {n: v for n, v in inputs.items() if isinstance(v, torch.Tensor) and v.ndim and len(v) == 1}
        found = subject.at({**inputs, **{name: torch.cat([value, value]) for name, value in one.items()}})
        return {name: value[:1] if value.ndim and len(value) == 2 else value for name, value in found.items()}


def _count(subject: Subject) -> tuple[int, Any]:
    """How many structures there are, and what chooses the entries of one of them along the first axis."""
    index = subject.schema.batch
    if atom_indices(subject):
        raise NotApplicable("inputs count atoms by their places (edges), which would have to be counted anew")
    if index is not None:
        owners: Tensor = subject.inputs[index].long()
        count = int(owners.max()) + 1
        if count < 2:
            raise NotApplicable("the batch holds one structure")
        return count, lambda place: owners == place
    shown = primary(subject.schema, subject.inputs)
    value, rep = subject.inputs[shown], subject.schema.inputs[shown]
    least = 1 if rep.is_whole else 2  # axes before those of one structure's: of a cloud of points, they are in a list
    if value.ndim - len(rep.event_shape) < least or len(value) < 2:
        raise NotApplicable("the input is one structure")
    return len(value), lambda _: torch.zeros(0, dtype=torch.bool)


def _chosen(values: Mapping[str, Any], chosen: Tensor, count: int, place: int) -> dict[str, Any]:
    """What belongs to one structure: of nodes those that are its own, of what there is one of each, that."""
    found = {}
    for name, value in values.items():
        found[name] = value
        if not isinstance(value, torch.Tensor) or not value.ndim:
            continue
        if len(chosen) and len(value) == len(chosen):
            found[name] = value[chosen.to(value.device)]
        elif len(value) == count:
            found[name] = value[place : place + 1]
    return found
