"""What a reader must know to use the numbers, and with what they were made."""

from __future__ import annotations

import math
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.estimation.verdict import BROKEN_RELATIVE
from equiv_probe_ase.evaluators.loop import with_wrapped
from equiv_probe_ase.structures.rotation import rotated_constraints

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

    from equiv_probe.results.report import Measured
    from equiv_probe_ase.auditing.options import Options
    from equiv_probe_ase.structures.loading import Structure
    from equiv_probe_ase.structures.quantities import Quantity

LARGE = 1e-3
"""Of a quantity of natural size (1 eV/Å, 1 eV/atom): round-off above it hides errors that users care for."""
FAR = 10.0
"""Extents of a structure that its centroid may be from the origin before its digits are spent on that."""


def notes_on(
    todo: Sequence[Structure],
    records: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    options: Options,
) -> list[str]:
    """Notes on what failed, what each structure's measurement doubts, and how the number of rotations was decided."""
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


def notes_on_rounding(
    measured: Sequence[Measured],
    quantities: Mapping[str, Quantity],
    todo: Sequence[Structure],
    precision: torch.dtype,
) -> list[str]:
    """How large round-off is, where it hides symmetry errors that matter, and whether the origin is to blame."""
    large = [
        one
        for one in measured
        if one.verdict == "round-off"
        and one.rms > LARGE * quantities[one.name].factor
        and not one.relative < BROKEN_RELATIVE
    ]
    if not large:
        return []
    listed = ", ".join(f"{one.name} {one.rms:.2g} {one.unit}{_percent(one.relative)}" for one in large)
    kind = str(precision).removeprefix("torch.")
    note = f"round-off is large in {kind}: {listed}. No smaller symmetry error can be seen"
    farthest = max(todo, key=lambda one: _distance(one.atoms))
    extent = float(np.abs(farthest.atoms.positions - farthest.atoms.positions.mean(0)).max(initial=0.0))
    if _distance(farthest.atoms) > FAR * max(extent, 1.0):
        apart = _distance(farthest.atoms) * torch.finfo(precision).eps
        note += (
            f"; {farthest.name} is {_distance(farthest.atoms):.0f} Å from the origin, where {kind} numbers are "
            f"{apart:.1g} Å apart: centre it"
        )
    return [note]


def _percent(relative: float) -> str:
    return "" if math.isnan(relative) else f" ({100 * relative:.2g} %)"


def _distance(atoms: Atoms) -> float:
    return float(np.linalg.norm(atoms.positions.mean(0))) if len(atoms) else 0.0


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
