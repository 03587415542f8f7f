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

    from equiv_probe_ase.auditing.windows import Options
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
    notes += _torque(records)
    if options.rel_err is not None:
        stopped = sum(r["rotations"] == options.plan.size for r in records)
        limited = sum(r["rotations"] + options.plan.n > options.max_rotations for r in records)
        notes.append(
            f"{stopped} of {len(records)} structures stopped after the first {options.plan.size} rotations (at "
            f"round-off, or tight enough); {limited} reached the limit of {options.max_rotations}"
        )
    return notes


def _torque(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the net torque says about the energy: its bound, or that the forces cannot be the energy's gradient."""
    energies = [e for r in records if (e := r["quantities"].get("energy")) and "torque_bound" in e]
    if not energies:
        return []
    # Both sides are estimates from the same rotations; rounding is not held against the forces.
    beyond = [e for e in energies if e["rms"] > 1.05 * e["torque_bound"] and e["rms"] > 10 * (e["floor"] or 0.0)]
    if beyond:
        worst = max(beyond, key=lambda e: e["rms"] / max(e["torque_bound"], 1e-300))
        return [
            f"on {len(beyond)} of {len(energies)} structures the energy varies over rotations by more than the net "
            f"torque allows ({worst['rms']:.3g} against {worst['torque_bound']:.3g} meV/atom): the forces are not the "
            "energy's gradient"
        ]
    real = [e for e in energies if e["rms"] > 10 * max(e["floor"] or 0.0, e["resolution"] or 0.0)]
    if not real:  # at round-off there is nothing to bound
        return []
    spread, bound = (max(e[key] for e in real) for key in ("rms", "torque_bound"))
    return [
        f"if the forces are the energy's gradient, net torque lets the energy vary by {bound:.3g} meV/atom at most "
        f"over rotations; it varied by up to {spread:.3g}"
    ]


def versions(calculator: object) -> str:
    """Versions of Python, of this package, and of the packages behind a calculator and those that it wraps."""
    packages = [type(current).__module__.split(".")[0] for current in with_wrapped(calculator)]
    names = ["equiv-probe", "torch", "ase", *({"orb_models": "orb-models"}.get(name, name) for name in packages)]
    found = [f"Python {platform.python_version()}"]
    for name in dict.fromkeys(names):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
