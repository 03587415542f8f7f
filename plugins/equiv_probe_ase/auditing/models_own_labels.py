"""Whether reference values are the model's own outputs, as in every trajectory that it moved: no loss is in them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from equiv_probe_ase.auditing.resumption import outputs_of
from equiv_probe_ase.structures.loading import reference_values
from equiv_probe_ase.structures.quantities import size_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe_ase.auditing.crew import Crew
    from equiv_probe_ase.auditing.subject import Subject
    from equiv_probe_ase.structures.loading import Structure
    from equiv_probe_ase.structures.quantities import Quantity

LOOKED_AT = 3
"""Structures, the smallest: no model meets somebody else's numbers to the last digits on all of them."""
RELATIVE = 1e-4
WRITTEN = 1e-2
"""What files round to, in meV/Å and the like, with much to spare."""


def without_models_own_labels(
    structures: Sequence[Structure], crew: Crew, quantities: Mapping[str, Quantity], *, asked: bool
) -> tuple[list[Structure], list[str]]:
    """Leave out reference values that are the model's own outputs.

    A trajectory holds what the calculator gave for each frame as it was. Against that, ``L_total`` is symmetry error
    and nothing else, and a share of it says nothing.

    Returns:
        The structures, and a note if the values are the model's own; where the user ``asked`` for them by name they are
        kept, and the note says what they are.
    """
    labelled = [s for s in structures if len(s.atoms) and s.reference.keys() & quantities.keys()]
    labelled = sorted(labelled, key=lambda s: len(s.atoms))[:LOOKED_AT]
    if not labelled or not crew.ask(are_own, labelled):
        return list(structures), []
    names = ", ".join(name for name in quantities if any(name in s.reference for s in labelled))
    own = f"the reference values ({names}) are this model's own outputs, as in a trajectory that it moved"
    if asked:
        return list(structures), [f"{own}: the loss against them is symmetry error and nothing else"]
    return [replace(s, reference={}) for s in structures], [f"{own}: there is no loss to compare with"]


def are_own(subject: Subject, structures: Sequence[Structure]) -> bool:
    """Whether the reference values of all of these structures are what the calculator gives for them."""
    return all(_own(one, subject) for one in structures)


def _own(structure: Structure, subject: Subject) -> bool:
    """Whether everything that is known of a structure, and is not zero, is what the model gives."""
    known, chosen = {}, subject.quantities
    for name, quantity in chosen.items():
        try:
            values = reference_values(structure, quantity)
        except Exception:  # labels come from files; the audit says what is wrong with them
            return False
        if values is not None:
            known[name] = values
    found = outputs_of(subject, structure, list(known))
    if found is None:
        return False
    telling = False
    for name, values in known.items():
        output = chosen[name].values(found[name], structure.atoms)
        size = size_of(values)
        relative = RELATIVE if chosen[name].has_zero else 4 * torch.finfo(subject.precision).eps
        if output.shape != values.shape or not abs(output - values).max() <= relative * size + WRITTEN:
            return False
        telling |= size > 10 * WRITTEN
    return telling
