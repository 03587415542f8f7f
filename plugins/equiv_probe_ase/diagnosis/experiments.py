"""The experiments of the core, with those that know what a calculator and a crystal are in the place of their like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from ase.build import make_supercell

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.experiments import EXPERIMENTS
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.diagnosis.group.crystals import CELL, CELL_ADVICE
from equiv_probe.diagnosis.numerics.batch_of_one import ADVICE
from equiv_probe.diagnosis.numerics.batch_of_one import NAME as BATCHED
from equiv_probe.diagnosis.numerics.run_otherwise import PRECISION
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.controls import BATCH
from equiv_probe.estimation.verdict import BROKEN_FACTOR
from equiv_probe.report.formatting import number
from equiv_probe_ase.diagnosis.atoms_subject import AtomsModel, atoms_of
from equiv_probe_ase.diagnosis.physics import forces_and_energy, stress_and_strain
from equiv_probe_ase.evaluators import evaluator_for
from equiv_probe_ase.evaluators.engine import Engine

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Experiment, Findings
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


@experiment(BATCHED, "numerics", "Does a structure get alone what it gets beside others?", cost=0, needs_error=False)
def in_company(subject: Subject) -> Findings:
    """The control of the batched evaluation, which was made before anything else."""
    asked = [control for control in atoms_of(subject).controls if control.name == BATCH]
    if not asked:
        raise NotApplicable("structures are evaluated one at a time, or there is one")
    for control in asked:
        if control.failed:
            output = control.sentence.partition(" ")[0]
            yield Finding(BATCHED, output, control.sentence, ADVICE, "beside", control.value, control.limit)


@experiment(PRECISION, "numerics", "Does the error go if everything is computed in float64?", cost=FEW + 1)
def calculator_in_float64(subject: Subject) -> Findings:
    """Make the calculator once more, in float64."""
    model = atoms_of(subject)
    if model.precision == torch.float64:
        raise NotApplicable("the calculator works in float64")
    if model.in_float64 is None:
        raise NotApplicable("it is not known how to make this calculator in float64: name it instead of giving it")
    default = torch.get_default_dtype()  # which some packages set, and the calculator in float32 needs back
    try:
        try:
            calculator = model.in_float64()
        except EquivProbeError as error:
            raise NotApplicable("this calculator cannot be made in float64") from error
        engine = Engine(evaluator_for(calculator), model.engine.atoms_per_call)
        after = subject.again(predict=AtomsModel(model.atoms, engine, model.quantities, torch.float64))
    finally:
        torch.set_default_dtype(default)
    for name in subject.broken:
        best = subject.compare(name, after[name])
        sentence = f"{name!r} is off by {subject.amount(name, best.before)}, and in float64 by {number(best.after, 2)}"
        advice = "Use the model in float64 (--dtype float64), or keep its geometry in float64."
        yield finding(PRECISION, name, best, sentence, advice)


_OWN = (choice_of_cell, in_company, calculator_in_float64, stress_and_strain, forces_and_energy)
_OF_MODULES = {"compilation", "device", "edges", "Cartesian or spherical", "output transposed"}
"""What a calculator does not show."""
ATOMS_EXPERIMENTS: tuple[Experiment, ...] = (
    *(one for one in EXPERIMENTS if one.name not in {*_OF_MODULES, *(own.name for own in _OWN)}),
    *_OWN,
)
