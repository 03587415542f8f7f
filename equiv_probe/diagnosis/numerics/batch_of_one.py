"""A structure that gets something else in a batch than alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.diagnosis.atom_indices import atom_indices, edges_of
from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.schema.batch_layout import primary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "batch"
ROUNDING = 1e3
"""Units in the last place that another order of sums may cost."""
MOST = 4
"""Structures that are evaluated alone."""
ADVICE = (
    "Look for padding that is not masked, batch normalisation in training mode, pooling over the whole batch, and "
    "capacity limits that a batch shares."
)


@experiment(NAME, "numerics", "Does a structure get alone what it gets in its batch?", cost=MOST, needs_error=False)
def batch_of_one(subject: Subject) -> Findings:
    """The first structures of the batch, one at a time."""
    batch = _Batch(subject)
    index = subject.schema.batch
    worst: dict[str, float] = dict.fromkeys(subject.outputs, 0.0)
    for place in range(min(MOST, batch.count)):
        alone = batch.one(subject.inputs, place)
        if index is not None:
            alone[index] = torch.zeros_like(alone[index])
        found = _alone(subject, alone)
        shared = batch.one(subject.identity, place)
        for name in subject.outputs:
            if shared[name].shape == found[name].shape:
                change = root(found[name] - shared[name])
                worst[name] = worst[name] if change <= worst[name] else change  # NaN counts as a change
    for name, change in worst.items():
        allowed = max(subject.rounding(name), ROUNDING * torch.finfo(subject.precision).eps * subject.size(name))
        if not change <= allowed:
            sentence = (
                f"{name!r} of a structure changes by {subject.amount(name, change)} if it is evaluated alone and not "
                f"in a batch of {batch.count}"
            )
            yield Finding(NAME, name, sentence, ADVICE, "beside", change, allowed)


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


class _Batch:
    """Which entries of inputs and outputs belong to one structure of several.

    Raises:
        NotApplicable: there is one structure, or edges that cannot be counted anew.
    """

    def __init__(self, subject: Subject) -> None:
        self.owners: Tensor | None = None
        """Of each atom the structure, ``(N,)``, where atoms of all structures are in one list."""
        self.edges: dict[str, Tensor] = {}
        """Inputs that count atoms by their places, ``(E,)`` or ``(2, E)``."""
        if subject.schema.batch is not None:
            self.owners = subject.inputs[subject.schema.batch].long()
            self.count = int(self.owners.max()) + 1
            self.edges = edges_of(subject)
        else:
            shown = primary(subject.schema, subject.inputs)
            value, rep = subject.inputs[shown], subject.schema.inputs[shown]
            least = 1 if rep.is_whole else 2  # axes before those of one structure: points are in a list
            self.count = len(value) if value.ndim - len(rep.event_shape) >= least else 1
            if atom_indices(subject):
                raise NotApplicable("inputs count atoms by their places (edges), and no input says whose they are")
        if self.count < 2:
            raise NotApplicable("there is one structure")
        self.edge_owners = self._edge_owners()

    def _edge_owners(self) -> Tensor | None:
        if not self.edges or self.owners is None:
            return None
        ends = [row for value in self.edges.values() for row in value.long().reshape(-1, value.shape[-1])]
        own = [self.owners.to(row.device)[row] for row in ends]
        if any(len(one) != len(own[0]) or not torch.equal(one, own[0]) for one in own):
            raise NotApplicable("edges join structures, or inputs count something else than atoms")
        if len(own[0]) in {len(self.owners), self.count}:
            raise NotApplicable("there are as many edges as atoms or structures: what belongs to which is not known")
        return own[0]

    def one(self, values: Mapping[str, Any], place: int) -> dict[str, Any]:
        """What belongs to one structure: of atoms and edges its own, of what there is one of each, that."""
        found = {}
        for name, value in values.items():
            found[name] = value
            if not isinstance(value, torch.Tensor) or not value.ndim:
                continue
            if name in self.edges and self.edge_owners is not None and self.owners is not None:
                anew = (self.owners == place).cumsum(0) - 1
                kept = value[..., self.edge_owners == place]
                found[name] = anew.to(kept.device)[kept.long()].to(value.dtype)
            elif self.edge_owners is not None and len(value) == len(self.edge_owners):
                found[name] = value[(self.edge_owners == place).to(value.device)]
            elif self.owners is not None and len(value) == len(self.owners):
                found[name] = value[(self.owners == place).to(value.device)]
            elif len(value) == self.count:
                found[name] = value[place : place + 1]
        return found
