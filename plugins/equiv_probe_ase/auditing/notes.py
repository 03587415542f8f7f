"""What a reader must know to use the numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.estimation.verdict import BROKEN_RELATIVE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from equiv_probe.results.report import Measured
    from equiv_probe_ase.auditing.about import About

LARGE = 1e-3
"""Of a quantity of natural size (1 eV/Å, 1 eV/atom): round-off above it hides errors that users care for."""
FAR = 10.0
"""Extents of a structure that its centroid may be from the origin before its digits are spent on that."""


def notes_on(
    about: About, records: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]], doubts: Iterable[str]
) -> list[str]:
    """Notes on what failed, what the measurements doubt, and how the number of rotations was decided."""
    notes = []
    if failures:
        total = len(records) + len(failures)
        notes.append(f"{len(records)} of {total} structures measured, {len(failures)} failed and are listed")
    notes += doubts
    unknown = {name for record in records for name in record.get("constraints_left_out", ())}
    if unknown:
        notes.append(
            f"constraints that cannot be rotated were left out of the rotated copies: {', '.join(sorted(unknown))}"
        )
    if about.rel_err is not None:
        plan = about.rotation_plan
        stopped = sum(r["rotations"] == plan.size for r in records)
        limited = sum(r["rotations"] + plan.n > about.max_rotations for r in records)
        notes.append(
            f"{stopped} of {len(records)} structures stopped after the first {plan.size} rotations (at "
            f"round-off, or tight enough); {limited} reached the limit of {about.max_rotations}"
        )
    return notes


def notes_on_rounding(about: About, measured: Sequence[Measured], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """How large round-off is, where it hides symmetry errors that matter, and whether the origin is to blame."""
    large = [
        one
        for one in measured
        if one.verdict == "round-off"
        and one.rms > LARGE * about.units[one.name].factor
        and not one.relative < BROKEN_RELATIVE
    ]
    if not large:
        return []
    listed = ", ".join(f"{one.name} {one.rms:.2g} {one.unit}{_percent(one.relative)}" for one in large)
    note = f"round-off is large in {about.precision}: {listed}. No smaller symmetry error can be seen"
    farthest = max(records, key=lambda one: one["from_origin"])
    distance = farthest["from_origin"]
    if distance > FAR * max(farthest["extent"], 1.0):
        apart = distance * torch.finfo(getattr(torch, about.precision)).eps
        note += (
            f"; {farthest['name']} is {distance:.0f} Å from the origin, where {about.precision} numbers are "
            f"{apart:.1g} Å apart: centre it"
        )
    return [note]


def _percent(relative: float) -> str:
    return "" if math.isnan(relative) else f" ({100 * relative:.2g} %)"
