"""From what was measured at one step to a row of the log, and back after a restart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe_ase.auditing.versions import versions
from equiv_probe_ase.calculators.inspection import weights_digest
from equiv_probe_ase.dynamics.budget import Budget
from equiv_probe_ase.dynamics.log import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

    from equiv_probe_ase.dynamics.watched import Watched
    from equiv_probe_ase.evaluators.conservative import Defect

_UNITS = {"energy": "meV_per_atom", "forces": "meV_per_A", "stress": "meV_per_A3"}


def protocol_of(monitor: Watched) -> dict[str, Any]:
    """What the rows of a monitor depend on."""
    return {
        "structure": monitor.atoms.get_chemical_formula(),
        "dynamics": type(monitor.dyn).__name__,
        "timestep_fs": None if math.isnan(monitor.timestep) else round(monitor.timestep, 9),
        "every": int(monitor.every),
        "plan": str(monitor.plan),
        "center": str(monitor.symmetry.center),
        "model": monitor.name or type(monitor.model).__name__,
        "weights": weights_digest(monitor.model),
        "versions": versions(monitor.model),
    }


def row_of(
    step: int, budget: Budget, record: Mapping[str, Any] | None = None, defect: Defect | None = None
) -> dict[str, Any]:
    """One row: the budget at a step, and what was measured there."""
    now = budget.last
    assert now is not None  # the step was added
    row: dict[str, Any] = {
        "step": step,
        "time_fs": budget.time,
        "potential_eV": now.potential,
        "kinetic_eV": now.kinetic,
        "total_eV": now.total,
        "energy_change_eV": budget.energy,
        "net_force_eV_per_A": float(np.linalg.norm(now.force)),
        "net_force_rms_eV_per_A": budget.force,
        "net_torque_eV": float(np.linalg.norm(now.torque)),
        "net_torque_rms_eV": budget.torque,
    }
    for name, vector, unit in (
        ("momentum", now.momentum, "eV_fs_per_A"),
        ("angular_momentum", now.angular, "eV_fs"),
        ("momentum_change", budget.momentum, "eV_fs_per_A"),
        ("impulse", budget.impulse, "eV_fs_per_A"),
        ("angular_change", budget.angular, "eV_fs"),
        ("angular_impulse", budget.angular_impulse, "eV_fs"),
    ):
        row |= {f"{name}_{axis}_{unit}": float(value) for axis, value in zip("xyz", vector, strict=True)}
    return row | (_symmetry(record) if record else {}) | (_defect(defect) if defect else {})


def _symmetry(record: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "energy_twirl" in record:
        found["energy_twirl_eV"], found["energy_twirl_stderr_eV"] = record["energy_twirl"]
    for name, unit in _UNITS.items():
        values = record["quantities"].get(name)
        if values is None:
            continue
        found[f"{name}_rms_{unit}"] = values["rms"]
        found[f"{name}_L_equiv"] = values["equiv"]
        found[f"{name}_L_equiv_stderr"] = values["equiv_stderr"]
        if "torque_bound" in values:
            found["energy_torque_bound_meV_per_atom"] = values["torque_bound"]
    return found


def _defect(defect: Defect) -> dict[str, Any]:
    return {
        "defect_rms_meV_per_A": 1e3 * math.sqrt(defect.square),
        "defect_floor_meV_per_A": 1e3 * math.sqrt(defect.floor),
        "forces_size_meV_per_A": 1e3 * math.sqrt(defect.size),
        "defect_power_eV_per_ps": 1e3 * defect.power,
        "defect_power_floor_eV_per_ps": 1e3 * defect.power_floor,
        "twirled_defect_power_eV_per_ps": 1e3 * defect.twirled_power,
    }


def resumed_budget(rows: Sequence[Mapping[str, Any]]) -> Budget:
    """The budget as the last row left it; the first instant after a restart begins where the restart does."""
    last = rows[-1]

    def vector(name: str, unit: str) -> Any:
        return np.array([last.get(f"{name}_{axis}_{unit}", math.nan) for axis in "xyz"])

    instants = max(1, int(last["step"]) - int(rows[0]["step"]) + 1)
    return Budget(
        time=last.get("time_fs", math.nan),
        instants=instants,
        known=instants,
        momentum=vector("momentum_change", "eV_fs_per_A"),
        angular=vector("angular_change", "eV_fs"),
        energy=last.get("energy_change_eV", math.nan),
        impulse=vector("impulse", "eV_fs_per_A"),
        angular_impulse=vector("angular_impulse", "eV_fs"),
        torque_squares=instants * last.get("net_torque_rms_eV", math.nan) ** 2,
        force_squares=instants * last.get("net_force_rms_eV_per_A", math.nan) ** 2,
    )


def info_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into ``atoms.info``."""
    return {f"equiv_{n}": v for n, v in plain(row).items() if not (isinstance(v, float) and math.isnan(v))}


def frame_of(atoms: Atoms, results: Mapping[str, Any]) -> dict[str, Any]:
    """A structure with its energy and forces as plain lists, for JSON."""
    frame: dict[str, Any] = {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }
    if "momenta" in atoms.arrays:
        frame["momenta"] = atoms.arrays["momenta"].tolist()
    for name in ("energy", "forces", "stress"):
        if results.get(name) is not None:
            frame[name] = np.asarray(results[name], dtype=float).tolist()
    return frame
