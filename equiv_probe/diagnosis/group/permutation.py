"""Permutation of atoms: an output that depends on the order in which they are listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.diagnosis.atom_indices import atom_indices
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.diagnosis.subject import root
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from equiv_probe.diagnosis.subject import Subject
    from equiv_probe.representations.representation import Representation

NAME = "order of atoms"


@experiment(NAME, "group", "Do the outputs depend on the order of the atoms?", cost=1, needs_error=False)
def permutation(subject: Subject) -> Iterator[Finding]:
    """List the atoms of every structure in another order, and bring what belongs to atoms back into the first."""
    order, axis = _order(subject)
    first = subject.inputs[_places(subject)]
    atoms, lead = first.shape[axis], first.shape[:axis]
    back = order.argsort()
    indices = atom_indices(subject)

    def shuffled(value: Any, rep: Representation | None, places: Tensor) -> Any:
        free = value.ndim - len(rep.event_shape if rep else ()) if isinstance(value, torch.Tensor) else 0
        is_per_atom = free > axis and value.shape[: axis + 1] == (*lead, atoms)
        return value.index_select(axis, places.to(value.device)) if is_per_atom else value

    schema = subject.schema
    given = {n: shuffled(value, schema.inputs.get(n), order) for n, value in subject.inputs.items()}
    given |= {n: back.to(subject.inputs[n].device)[subject.inputs[n].long()].to(subject.inputs[n]) for n in indices}
    found = subject.at(given)
    for name in subject.outputs:
        change = root(shuffled(found[name], schema.outputs[name], back) - subject.identity[name])
        rounding = subject.rounding(name)
        if change > ROUND_OFF_FACTOR * rounding:
            sentence = f"{name!r} changes by {subject.amount(name, change)} if the atoms are listed in another order"
            advice = (
                "Look for positional encodings, recurrent or convolutional layers over atoms, a first atom that is "
                "special (the origin of a frame), sums in float16, and ties that the order decides."
            )
            yield Finding(NAME, name, sentence, advice, "beside", change, rounding)


def _places(subject: Subject) -> str:
    found = [name for name, rep in subject.schema.inputs.items() if rep.is_affine]
    if not found:
        raise NotApplicable("no input holds places of atoms")
    return found[0]


def _order(subject: Subject) -> tuple[Tensor, int]:
    """Another order of the atoms, within each structure, and the axis that they are on."""
    places = subject.inputs[_places(subject)]
    axis = places.ndim - 2
    count = places.shape[axis]
    if subject.schema.mask is not None:
        raise NotApplicable("the batch is padded: the order says what is padding")
    generator = torch.Generator().manual_seed(subject.seed)
    keys = torch.rand(count, generator=generator)
    if subject.schema.batch is not None:
        keys = keys + subject.inputs[subject.schema.batch].cpu()
    order = keys.argsort()
    if bool((order == torch.arange(count)).all()):
        raise NotApplicable("there is one atom in each structure")
    return order, axis
