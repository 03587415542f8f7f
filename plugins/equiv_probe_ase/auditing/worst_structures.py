"""The geometry of the worst structures or frames, so that a page can show where on them the error sits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe_ase.structures.rotation import rotated_constraints

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

WORST_STRUCTURES = 12
"""Of each quantity: as many as a page lists, so that every one that is listed can be looked at."""


def worst_of(records: Sequence[Mapping[str, Any]]) -> set[str]:
    """Keys of the records with the largest errors of each quantity."""
    worst: set[str] = set()
    for name in {name for entry in records for name in entry["quantities"]}:
        having = [entry for entry in records if name in entry["quantities"]]
        having.sort(key=lambda entry: -(entry["quantities"][name]["rms"] or -math.inf))
        worst |= {entry["key"] for entry in having[:WORST_STRUCTURES]}
    return worst


def geometry(atoms: Atoms) -> dict[str, Any]:
    """Symbols, positions and cell in Å, as plain data for a page."""
    return {
        "symbols": atoms.get_chemical_symbols(),
        "positions": [[round(x, 4) for x in row] for row in atoms.positions.tolist()],
        "cell": atoms.cell.array.round(6).tolist() if atoms.cell.rank == 3 else None,
    }


def shown(atoms: Atoms) -> dict[str, Any]:
    """What a report says or shows of a structure besides its numbers: it may be written where the structure is not."""
    identity = np.eye(3)
    found: dict[str, Any] = {"geometry": geometry(atoms)}
    centroid = atoms.positions.mean(0)
    found["from_origin"] = float(np.linalg.norm(centroid))
    found["extent"] = float(np.abs(atoms.positions - centroid).max())
    unknown = rotated_constraints(atoms.constraints, identity, identity[0])[1]
    return found | ({"constraints_left_out": sorted(unknown)} if unknown else {})


def slim(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without numbers by atom."""
    quantities = {n: {k: v for k, v in values.items() if k != "per_atom"} for n, values in record["quantities"].items()}
    return {**record, "quantities": quantities}
