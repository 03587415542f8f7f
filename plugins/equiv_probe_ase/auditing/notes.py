"""What a reader must know to use the numbers, and with what they were made."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe_ase.evaluators.loop import with_wrapped
from equiv_probe_ase.structures.rotation import rotated_constraints

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe_ase.auditing.options import Options
    from equiv_probe_ase.structures.loading import Structure


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
    unknown = {n for s in todo for n in rotated_constraints(s.atoms.constraints, identity, identity[0])[1]}
    if unknown:
        notes.append(
            f"constraints that cannot be rotated were left out of the rotated copies: {', '.join(sorted(unknown))}"
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
    """Versions of Python, of this package, and of the packages behind a calculator and those that it wraps."""
    packages = [type(current).__module__.split(".")[0] for current in with_wrapped(calculator)]
    found = [f"Python {platform.python_version()}"]
    for name in dict.fromkeys(["equiv-probe", "torch", "ase", *packages]):
        found += [f"{distribution} {version}" for distribution, version in _distributions(name)]
    return ", ".join(dict.fromkeys(found))


def _distributions(package: str) -> list[tuple[str, str]]:
    """What a package was installed as, with its version: ``mace`` comes with mace-torch; nothing for a loose file."""
    try:
        return [(package, metadata.version(package))]
    except metadata.PackageNotFoundError:  # by another name, which takes a while to find
        return [
            (name, metadata.version(name)) for name in dict.fromkeys(metadata.packages_distributions().get(package, []))
        ]
