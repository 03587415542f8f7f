"""What a reader must know to use the numbers, and with what they were made."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe_ase.turning import turned_constraints

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe_ase.measuring import Options
    from equiv_probe_ase.structures import Structure


def notes_on(
    todo: Sequence[Structure],
    records: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    options: Options,
) -> list[str]:
    """Notes for the report.

    Args:
        todo: all structures.
        records: of those that were measured.
        failures: of those that were not.
        options: of the audit.
    """
    notes = []
    if failures:
        notes.append(f"{len(records)} of {len(todo)} structures measured, {len(failures)} failed and are listed")
    doubts: dict[str, list[str]] = {}  # the first structure that has any speaks for all
    for entry in records:
        for name, values in entry["quantities"].items():
            doubts[name] = doubts.get(name) or values["notes"]
    notes += [note for found in doubts.values() for note in found]
    identity = np.eye(3)
    unknown = {n for s in todo for n in turned_constraints(s.atoms.constraints, identity, identity[0])[1]}
    if unknown:
        notes.append(
            f"constraints that cannot be turned were left out of the turned copies: {', '.join(sorted(unknown))}"
        )
    bounds = [
        (e["rms"], e["torque_bound"]) for r in records if (e := r["quantities"].get("energy")) and "torque_bound" in e
    ]
    broken = [pair for pair in bounds if pair[0] > pair[1] * 1.05 and pair[0] > 0]
    if bounds and not broken:
        spread, bound = (max(column) for column in zip(*bounds, strict=True))
        notes.append(
            f"if the forces are the energy's gradient, net torque lets the energy vary by {bound:.3g} meV/atom at most "
            f"over rotations; it varied by up to {spread:.3g}"
        )
    if options.rel_err is not None:
        stopped = sum(r["rotations"] == options.plan.size for r in records)
        limited = sum(r["rotations"] + options.plan.n > options.max_rotations for r in records)
        notes.append(
            f"{stopped} of {len(records)} structures stopped after the first {options.plan.size} rotations (at "
            f"round-off, or tight enough); {limited} reached the limit of {options.max_rotations}"
        )
    return notes


def versions(calculator: object) -> str:
    """Versions of Python, of this package, and of the packages behind a calculator."""
    package = type(calculator).__module__.split(".")[0]
    names = ["equiv-probe", "torch", "ase", *({"orb_models": ["orb-models"]}.get(package, [package]))]
    found = [f"Python {platform.python_version()}"]
    for name in dict.fromkeys(names):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
