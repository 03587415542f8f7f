"""The structures with the largest errors, as a table and in 3D."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from equiv_probe.report.document import Column, Structures, Table, columns
from equiv_probe.report.formatting import finite, number
from equiv_probe.report.scene import colour_name, drawable, scene
from equiv_probe.results.structure_table import WORST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equiv_probe.report.document import Cell
    from equiv_probe.results.measured import Measured
    from equiv_probe.results.structure_table import StructureRecord

MOST_ATOMS = 20_000
"""Atoms on one page, of all structures."""


def worst_structures(measured: Sequence[Measured], records: Sequence[StructureRecord], about: str) -> Structures:
    """The structures that are worst in the headline's quantity, and those shown since they are worst in another."""
    shown = sorted((m for m in measured if m.over_structures), key=lambda m: m.name != about)
    to_show = in_3d(records, about)
    drawn = {id(record): place for place, record in enumerate(to_show)}
    by_rank = sorted(records, key=lambda record: rank(record, about))
    worst = [record for place, record in enumerate(by_rank) if place < WORST or id(record) in drawn]
    other = ", or in another quantity" if len(worst) > WORST else ""
    atoms = next((m.unit for m in shown if m.worst_atoms), "")
    worst_atom = Column("worst atom", atoms, kind="text")
    heads = columns("structure", *(Column(m.name, m.unit) for m in shown), worst_atom, "atoms", "formula")
    rows: list[list[Cell]] = [
        [
            record["name"],
            *(finite(record["quantities"].get(m.name, {}).get("rms")) for m in shown),
            _worst_atom(record, shown),
            int(record["n_atoms"]),
            record["formula"],
        ]
        for record in worst
    ]
    caption = f"√L_equiv of the structures that are worst in {about}{other}; atoms are counted from 0"
    return Structures(
        Table("The worst structures", heads, rows, caption),
        (lambda: colored_scene(measured, to_show)) if to_show else None,
        {row: drawn[id(record)] for row, record in enumerate(worst) if id(record) in drawn},
    )


def in_3d(records: Sequence[StructureRecord], about: str) -> list[StructureRecord]:
    """Records of the structures that can be shown, the worst in one quantity first."""
    having = [record for record in records if drawable(record.get("geometry"))]
    having.sort(key=lambda record: rank(record, about))
    kept, atoms = [], 0
    for record in having:
        count = len(record["geometry"]["symbols"])
        if atoms + count <= MOST_ATOMS:  # one that is too large leaves room for the others
            kept.append(record)
            atoms += count
    return kept


def rank(record: StructureRecord, about: str) -> float:
    """What structures are sorted by: the worst in a quantity first, those without it last."""
    root = finite(record["quantities"].get(about, {}).get("rms"))
    return -root if math.isfinite(root) else math.inf


def colored_scene(measured: Sequence[Measured], records: Sequence[StructureRecord]) -> dict[str, Any]:
    """What the 3D viewer is given: structures whose atoms are coloured by the error of a quantity that atoms have."""
    colours = {}
    for m in measured:
        values = [_by_atom(record, m.name) for record in records]
        if all(values):
            colours[f"{colour_name(m.name)} error, {colour_name(m.unit)}"] = [x for one in values for x in one]
    return scene([record["geometry"] for record in records], colours)


def _by_atom(record: StructureRecord, name: str) -> list[float]:
    values = record["quantities"].get(name, {}).get("per_atom")
    fits = isinstance(values, list) and len(values) == len(record["geometry"]["symbols"])
    return values if fits and all(math.isfinite(finite(value)) for value in values) else []


def _worst_atom(record: StructureRecord, columns: Sequence[Measured]) -> str:
    for m in columns:
        if atoms := record["quantities"].get(m.name, {}).get("worst_atoms"):
            return f"{atoms[0]['element']}{atoms[0]['atom']}: {number(finite(atoms[0]['rms']))}"
    return ""
