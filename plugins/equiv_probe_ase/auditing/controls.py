"""The controls of an audit, decided from the records of its structures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.estimation.controls import (
    TRANSLATION,
    Control,
    does_not_move,
    floor_explained,
    many_carry,
    nothing_rotates,
    sees_rotation,
)
from equiv_probe.estimation.heavy_tails import effective_number
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR
from equiv_probe_ase.auditing.judgement import (
    floor_of,
    has_no_orientation,
    is_stuck,
    is_zero,
    root_mean_square,
    rounding_of,
    varies,
)
from equiv_probe_ase.structures.control_copies import SHIFT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe_ase.auditing.about import Unit

    Record = Mapping[str, Any]

MAY_BE_CONSTANT = frozenset({"charges", "magmom", "magmoms"})
"""A model may give these without a look at where atoms are."""

_CHANCE = ("floor", "resolution", "explained", "explained_at_moved", "nondeterminism", "noise")
"""What may change an output where a structure is only moved."""


def controls_of(records: Sequence[Record], units: Mapping[str, Unit], *, moved: bool) -> list[Control]:
    """All controls of the structures that were measured; ``moved`` is whether moved copies were evaluated."""
    found = [sees_rotation_in(records)]
    for name, unit in units.items():
        values = [record["quantities"][name] for record in records if name in record["quantities"]]
        if values:
            if not varies(values):  # then the round trips show noise once more, and not rounding
                floor = root_mean_square(values, "floor")
                found.append(floor_explained(name, floor, rounding_of(values), unit.unit))
            found += [_moved(name, values, unit.unit)] if moved else []
            found += _carried(name, [record for record in records if name in record["quantities"]])
    if not moved:
        found.append(
            Control(
                TRANSLATION,
                None,
                "structures were not moved, so that broken translation does not show: they rotate about a fixed point",
            )
        )
    return found


def sees_rotation_in(records: Sequence[Record]) -> Control:
    """Whether outputs depend on what was rotated, at those structures that were also evaluated deformed."""
    alone = [record for record in records if has_no_orientation(record)]
    same = {name for record in alone for name, values in record["quantities"].items() if not values["equiv"] > 0}
    if same and len(alone) == len(records):
        return nothing_rotates(sorted(same))
    tested, stuck = 0, []
    outputs: dict[str, None] = {}
    for record in records:
        known = {n: v for n, v in record["quantities"].items() if v.get("deformed") is not None}
        tested += bool(known)
        still = [name for name, values in known.items() if is_stuck(values)]
        nothing = [name for name, values in known.items() if is_zero(values)]
        if len(nothing) + len(still) == len(known):  # zeros beside outputs that change, as of moments, are no fault
            still += nothing
        if len(still) == len(known) or any(name not in MAY_BE_CONSTANT for name in still):
            stuck += [record["name"]] if still else []
            outputs |= dict.fromkeys(still)
    return sees_rotation(list(outputs), stuck, tested)


def _carried(name: str, records: Sequence[Record]) -> list[Control]:
    """Whether few structures, or few rotations of each, carry the number; nothing is asked of rounding."""
    values = [record["quantities"][name] for record in records]
    terms = np.array([value["equiv"] * value["weight"] for value in values])
    rounding = max(floor_of(values), root_mean_square(values, "explained"))
    if varies(values) or not math.sqrt(max(float(terms.sum()), 0.0)) > ROUND_OFF_FACTOR * rounding * math.sqrt(
        sum(value["weight"] for value in values)
    ):
        return []
    worst = records[int(terms.argmax())]["name"]
    largest = f" ({worst} makes {100 * terms.max() / terms.sum():.0f} %)"
    over = sum(value.get("effective_rotations", 0.0) for value in values)
    rotations = sum(record["rotations"] for record in records)
    return [
        many_carry(name, effective_number(terms), len(terms), "structures", largest),
        many_carry(name, over, rotations, "rotations", " (its errors are in a narrow cone of orientations)"),
    ]


def _moved(name: str, values: Sequence[Mapping[str, Any]], unit: str) -> Control:
    rounding = max(
        (root_mean_square(values, key) for key in _CHANCE),
        key=lambda x: -math.inf if math.isnan(x) else x,
    )
    how = f"moved by {SHIFT:g} Å, and atoms of periodic ones by lattice vectors"
    return does_not_move(name, root_mean_square(values, "moved"), rounding, unit, how)
