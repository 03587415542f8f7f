"""The choice of the cell: the same crystal by other lattice vectors, and by a cell of twice the size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.build import make_supercell

from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.diagnosis.group.crystals import CELL, CELL_ADVICE
from equiv_probe.estimation.verdict import BROKEN_FACTOR
from equiv_probe_ase.diagnosis.atoms_subject import atoms_of

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

LARGEST = 200
"""Atoms of a cell that is doubled."""
_SHEARED = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
_DOUBLED = np.diag([2, 1, 1])


@experiment(CELL, "group", "Do the outputs depend on which cell describes the crystal?", cost=3, needs_error=False)
def choice_of_cell(subject: Subject) -> Findings:
    """The second lattice vector plus the first; and the first one doubled, with the atoms in it."""
    model = atoms_of(subject)
    atoms = model.atoms
    if not atoms.pbc.all():
        raise NotApplicable("not all directions are periodic")
    bare = atoms.copy()
    bare.set_constraint()
    sheared = bare.copy()
    sheared.set_cell(_SHEARED @ atoms.cell.array, scale_atoms=False)
    others = {"the second lattice vector is replaced by its sum with the first": (sheared, 1)}
    if len(atoms) <= LARGEST:
        others["the cell is doubled along its first vector"] = (make_supercell(bare, _DOUBLED), 2)
    told: set[str] = set()
    for how, (other, times) in others.items():
        found = model.of([other])[0]
        for name in (one for one in subject.outputs if one not in told):
            own, there = subject.identity[name].numpy(), found[name]
            if model.quantities[name].per_atom:  # the copies come one after another, atom by atom or cell by cell
                own, there = _sorted(own, times), _sorted(there, 1)
            change = float(np.sqrt(np.mean((there - own) ** 2)))
            if change > BROKEN_FACTOR * subject.rounding(name):
                told.add(name)
                sentence = f"{name!r} changes by {subject.amount(name, change)} where {how}: the crystal is the same"
                yield Finding(CELL, name, sentence, CELL_ADVICE, "beside", change, subject.rounding(name))


def _sorted(values: np.ndarray, times: int) -> np.ndarray:
    """Values of atoms, each so many times, in an order that does not depend on that of the atoms."""
    return np.sort(np.repeat(values.reshape(len(values), -1), times, axis=0), axis=0)
