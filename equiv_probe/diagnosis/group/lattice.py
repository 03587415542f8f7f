"""Lattice translations: atoms that are counted in another cell are the same atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.atom_indices import atom_indices
from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.estimation.controls import MOVES
from equiv_probe.schema.usual_names import CELLS, plain

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "lattice translation"


@experiment(NAME, "group", "Do the outputs change where atoms are moved by whole cells?", cost=2, needs_error=False)
def lattice(subject: Subject) -> Findings:
    """Some atoms a cell on, and all of them in the cell that the vectors span; neither is another crystal."""
    name_of_cell, name_of_places = crystal(subject)
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
        for name in subject.outputs:
            if name in told or subject.schema.outputs[name].is_affine:
                continue
            change = root(found[name] - subject.identity[name])
            rounding = subject.rounding(name)
            if change > MOVES * rounding:
                told.add(name)
                sentence = f"{name!r} changes by {subject.amount(name, change)} where {how}"
                advice = (
                    "Neighbours must be counted by minimum image or by explicit shifts; positions that enter as such "
                    "(centroids, absolute coordinates, fractional coordinates without a period) see the cell they are "
                    "counted in."
                )
                yield Finding(NAME, name, sentence, advice, "beside", change, rounding)


def crystal(subject: Subject) -> tuple[str, str]:
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
