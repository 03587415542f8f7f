"""Whether a broken model reads the cell's vectors as columns where they are rows: a defect that has a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.estimation.second_opinion import FAR_BETTER
from equiv_probe.estimation.verdict import BROKEN_FACTOR
from equiv_probe.rotations.haar import haar
from equiv_probe_ase.auditing.judgement import floor_of, varies
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe_ase.auditing.options import Options
    from equiv_probe_ase.auditing.subject import Subject
    from equiv_probe_ase.structures.loading import Structure
    from equiv_probe_ase.structures.quantities import Quantity

ROTATIONS = 4
TRIED = 2
"""Structures at most: one more where the first could not be evaluated."""


def transposed_cell_notes(
    records: Sequence[Mapping[str, Any]], structures: Sequence[Structure], subject: Subject, options: Options
) -> list[str]:
    """Name the defect where rotated copies with the cell transposed agree as those with the right cell do not.

    A model that transposes the cell gets the right one of them. Cells that are symmetric matrices, as cubic and
    orthorhombic ones along the axes, hide it until they are rotated.

    Args:
        records: of the structures.
        structures: all that were read.
        subject: the model.
        options: of the audit.
    """
    by_key = {one.key: one for one in structures}
    broken = [(record, names) for record in records if (names := _broken(record))]
    periodic = [(by_key[r["key"]], r, names) for r, names in broken if by_key[r["key"]].atoms.cell.rank == 3]
    for structure, record, names in sorted(periodic, key=lambda one: len(one[0].atoms))[:TRIED]:
        quantities = {name: subject.quantities[name] for name in names}
        try:
            left = _left(structure, quantities, subject, options)
        except (Exception, SystemExit):  # a model may refuse such a cell
            continue
        explained = [name for name in names if left[name] < FAR_BETTER * record["quantities"][name]["equiv"]]
        if explained:
            return [
                f"{', '.join(explained)}: in rotated copies with the cell transposed, the outputs agree to "
                f"{max(left[name] ** 0.5 for name in explained):.2g} {quantities[explained[0]].unit} ({structure.name}"
                "). The model reads the cell's vectors as columns; they are rows (a1 = cell[0]). Cells that are "
                "symmetric matrices hide it"
            ]
        return []
    return []


def _broken(record: Mapping[str, Any]) -> list[str]:
    """Names of the quantities that are off by far more than rounding."""
    known = record["quantities"].items()
    return [n for n, values in known if values["rms"] > BROKEN_FACTOR * floor_of([values]) and not varies([values])]


def _left(
    structure: Structure, quantities: Mapping[str, Quantity], subject: Subject, options: Options
) -> dict[str, float]:
    """Variance over rotated copies with the cell transposed, in the reported unit squared."""
    rotations = haar(ROTATIONS, torch.Generator().manual_seed(structure.index))
    rotator = Rotator(structure.atoms, options.center, options.extra)
    copies = rotator.copies(rotations)
    for copy in copies:
        copy.set_cell(copy.cell.array.T, scale_atoms=False, apply_constraint=False)
    results = list(subject.engine.run(copies, list(quantities)))
    pivot = torch.as_tensor(rotator.pivot())
    left = {}
    for name, quantity in quantities.items():
        raw = np.stack([quantity.values(one[name], structure.atoms) for one in results])
        back = quantity.representation.rotate_back(torch.from_numpy(raw), rotations, pivot)
        left[name] = float(back.var(0).mean())
    return left
