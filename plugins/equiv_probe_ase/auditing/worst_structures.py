"""The geometry of the worst structures or frames, so that a page can show where on them the error sits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

    from equiv_probe_ase.structures.loading import Structure

WORST_STRUCTURES = 12
"""Of each quantity: as many as a page lists, so that every one that is listed can be looked at."""


def with_geometry(records: Sequence[dict[str, Any]], structures: Sequence[Structure]) -> list[dict[str, Any]]:
    """Records for the report: the worst structures with a ``geometry``, all others without numbers by atom."""
    worst = worst_of(records)
    shapes = {structure.key: geometry(structure.atoms) for structure in structures if structure.key in worst}
    return [{**entry, "geometry": shapes[entry["key"]]} if entry["key"] in shapes else slim(entry) for entry in records]


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


def slim(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without numbers by atom."""
    quantities = {n: {k: v for k, v in values.items() if k != "per_atom"} for n, values in record["quantities"].items()}
    return {**record, "quantities": quantities}
