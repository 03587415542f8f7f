"""The same crystal described otherwise: atoms counted in another cell, and a cell of other lattice vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.atom_indices import atom_indices
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.estimation.controls import MOVES
from equiv_probe.schema.usual_names import CELLS, plain

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

LATTICE, CELL = "lattice translation", "choice of cell"
CELL_ADVICE = (
    "Count neighbours over as many images as the cutoff needs, not only the nearest; do not use the cell's lengths or "
    "fractional coordinates as features. Of DFT, compare k-point meshes."
)


@experiment(LATTICE, "group", "Do the outputs change where atoms are moved by whole cells?", cost=2, needs_error=False)
def lattice(subject: Subject) -> Findings:
    """Some atoms a cell on, and all of them in the cell that the vectors span; neither is another crystal."""
    name_of_cell, name_of_places = _crystal(subject)
    cell, places = (subject.inputs[name].detach() for name in (name_of_cell, name_of_places))
    fractional = torch.linalg.solve(cell.double().mT, places.double().mT).mT
    some = torch.randint(-1, 2, places.shape, generator=torch.Generator().manual_seed(subject.seed))
    moved = {
        "atoms are moved by whole cells": places + (some.to(cell) @ cell).to(places),
        "atoms are wrapped into the cell": ((fractional - (fractional + 1e-6).floor()) @ cell.double()).to(places),
    }
    told: set[str] = set()
    for how, there in moved.items():
        found = subject.at({**subject.inputs, name_of_places: there})
        for name, change, rounding in subject.changes(found, MOVES):
            if name in told or subject.schema.outputs[name].is_affine:
                continue
            told.add(name)
            sentence = f"{name!r} changes by {subject.amount(name, change)} where {how}"
            advice = (
                "Neighbours must be counted by minimum image or by explicit shifts; positions that enter as such "
                "(centroids, absolute coordinates, fractional coordinates without a period) see the cell they are "
                "counted in."
            )
            yield Finding(LATTICE, name, sentence, advice, "beside", change, rounding)


@experiment(CELL, "group", "Do the outputs depend on which cell describes the crystal?", cost=1, needs_error=False)
def choice_of_cell(subject: Subject) -> Findings:
    """Replace the second lattice vector by its sum with the first; atoms stay where they are."""
    name_of_cell, _ = _crystal(subject)
    sheared = subject.inputs[name_of_cell].detach().clone()
    sheared[1] = sheared[1] + sheared[0]
    found = subject.at({**subject.inputs, name_of_cell: sheared})
    for name, change, rounding in subject.changes(found, MOVES):
        sentence = (
            f"{name!r} changes by {subject.amount(name, change)} where the second lattice vector is replaced by "
            "its sum with the first: the crystal is the same"
        )
        yield Finding(CELL, name, sentence, CELL_ADVICE, "beside", change, rounding)


def _crystal(subject: Subject) -> tuple[str, str]:
    """Names of the inputs that hold a cell ``(3, 3)`` and places ``(N, 3)`` of a crystal.

    Raises:
        NotApplicable: there are none, or edges say already which neighbours there are.
    """
    if atom_indices(subject):
        raise NotApplicable("edges are given with the input, which say in which cell a neighbour lies")
    cells = [n for n in subject.schema.inputs if plain(n) in CELLS and tuple(subject.inputs[n].shape) == (3, 3)]
    places = [n for n, rep in subject.schema.inputs.items() if rep.is_affine and subject.inputs[n].ndim == 2]
    if not cells or not places:
        raise NotApplicable("no cell (3, 3) beside places (N, 3) among the inputs")
    if not float(torch.linalg.det(subject.inputs[cells[0]].double()).abs()) > 0:
        raise NotApplicable("the cell has no volume")
    periodic = subject.inputs.get("pbc")
    if isinstance(periodic, torch.Tensor) and not bool(periodic.all()):
        raise NotApplicable("not all directions are periodic")
    return cells[0], places[0]
