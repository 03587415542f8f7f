"""The geometry of the worst structures, so that a page can show where on them the error sits."""

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
    """Records for the report: the worst structures with their atoms, all others without numbers by atom.

    Args:
        records: of structures, with ``per_atom`` root errors where the quantity has any.
        structures: all that were read; found by their key.

    Returns:
        Copies; the worst of each quantity get a ``geometry``: symbols, positions and cell in Å.
    """
    worst: set[str] = set()
    for name in {name for entry in records for name in entry["quantities"]}:
        having = [entry for entry in records if name in entry["quantities"]]
        having.sort(key=lambda entry: -(entry["quantities"][name]["rms"] or -math.inf))
        worst |= {entry["key"] for entry in having[:WORST_STRUCTURES]}
    known = {structure.key: structure.atoms for structure in structures if structure.key in worst}
    found = []
    for entry in records:
        atoms = known.get(entry["key"])
        if atoms is None:
            found.append(slim(entry))
            continue
        found.append({**entry, "geometry": geometry(atoms)})
    return found


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
