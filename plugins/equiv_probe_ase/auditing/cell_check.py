"""Whether a broken model reads the cell's vectors as columns where they are rows: a defect that has a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.estimation.verdict import BROKEN_FACTOR
from equiv_probe.rotations.haar import haar
from equiv_probe_ase.auditing.judgement import floor_of, varies
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equiv_probe_ase.auditing.options import Options
    from equiv_probe_ase.auditing.subject import Subject
    from equiv_probe_ase.structures.loading import Structure
    from equiv_probe_ase.structures.quantities import Quantity

ROTATIONS = 2
EXPLAINED = 1e-6
"""Part of ``L_equiv`` that may be left where the cell explains it: two rotations agree so well once in a thousand."""


def note_transposed_cell(record: dict[str, Any], structure: Structure, subject: Subject, options: Options) -> None:
    """Note in a record if rotated copies with the cell transposed agree as those with the right cell do not.

    A model that transposes the cell gets the right one of them. Cells that are symmetric matrices, as cubic and
    orthorhombic ones along the axes, hide it until they are rotated.
    """
    names = _broken(record) if structure.atoms.cell.rank == 3 else []
    if not names:
        return
    quantities = {name: subject.quantities[name] for name in names}
    try:
        left = _left(structure, quantities, subject, options)
    except (Exception, SystemExit):  # a model may refuse such a cell
        return
    known = record["quantities"]
    explained = [name for name in names if left[name] < EXPLAINED * known[name]["equiv"]]
    if explained:
        first = explained[0]
        known[first]["notes"] = [
            f"{', '.join(explained)}: in rotated copies with the cell transposed, the outputs agree to "
            f"{left[first] ** 0.5:.2g} {quantities[first].unit} ({structure.name}). The model reads the cell's "
            "vectors as columns; they are rows (a1 = cell[0]). Cells that are symmetric matrices hide it",
            *known[first]["notes"],
        ]


def _broken(record: Mapping[str, Any]) -> list[str]:
    """Names of the quantities that are off by far more than rounding."""
    known = record["quantities"].items()
    return [n for n, values in known if values["rms"] > BROKEN_FACTOR * floor_of([values]) and not varies([values])]


def _left(
    structure: Structure, quantities: Mapping[str, Quantity], subject: Subject, options: Options
) -> dict[str, float]:
    """Variance over rotated copies with the cell transposed, in the reported unit squared."""
    rotations = haar(ROTATIONS, torch.Generator().manual_seed(structure.seed))
    rotator = Rotator(structure.atoms, options.center, options.extra)
    copies = rotator.copies(rotations)
    for copy in copies:
        copy.set_cell(copy.cell.array.T, scale_atoms=False, apply_constraint=False)
    results = list(subject.engine.run(copies, list(quantities)))
    pivot = torch.as_tensor(rotator.pivot())
    left = {}
    for name, quantity in quantities.items():
        raw = quantity.stacked(results, structure.atoms)
        back = quantity.representation.rotate_back(raw, rotations, pivot)
        left[name] = float(back.var(0).mean())
    return left
