"""What a trajectory says about the model that moved it: the package's report, with the budget in words."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units
from ase.md.verlet import VelocityVerlet
from scipy.stats import t as student

from equiv_probe.estimation.controls import TRANSLATION, Control
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR
from equiv_probe.report.formatting import number
from equiv_probe.results.report import Report
from equiv_probe.results.structure_table import StructureTable
from equiv_probe_ase.auditing.controls import sees_rotation_in
from equiv_probe_ase.auditing.summary import blind_spots, collected, summarise
from equiv_probe_ase.calculators.inspection import draws_anew
from equiv_probe_ase.dynamics.budget import HBAR
from equiv_probe_ase.dynamics.energy_drift import energy_drift
from equiv_probe_ase.dynamics.log import plain
from equiv_probe_ase.dynamics.rows import protocol_of
from equiv_probe_ase.evaluators.conservative import DIRECTIONS, is_gradient, words_on

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe_ase.dynamics.watched import Watched

    Row = Mapping[str, Any]

NO_TORQUE = 0.1
"""Of what the energy's variation needs: not even four rotations of one frame come out so small by chance."""
ROUNDED = 1e-5
"""Of all that moves: what single precision makes of a sum over many steps is less."""


def dynamics_report(monitor: Watched) -> Report:
    """The report of what a monitor saw so far."""
    rows = [plain(row) for row in monitor.log.rows]
    if monitor.budget.last is not None and (not rows or rows[-1]["step"] < monitor.now["step"]):
        rows.append(monitor.now)
    blind = blind_spots(monitor.plan)
    if any("defect_rms_meV_per_A" in row for row in rows):
        blind = [line for line in blind if "gradient" not in line]
    kept, totals = collected(monitor.records)
    return Report(
        model=monitor.name or type(monitor.model).__name__,
        source=f"a trajectory of {monitor.atoms.get_chemical_formula()} ({type(monitor.dyn).__name__})",
        protocol=_protocol(monitor, rows),
        measured=summarise(kept, totals, monitor.quantities, "mse"),
        structures=StructureTable.of(monitor.records),
        failures=[{"name": f"step {step}", "error": error} for step, error in monitor.run.failures],
        notes=[*_notes(monitor, rows), *monitor.run.notes, *monitor.log.notes, *monitor.frames_file.notes],
        blind_spots=blind,
        controls=[
            *monitor.symmetry.controls,
            *([sees_rotation_in(kept)] if kept else []),
            Control(TRANSLATION, None, "frames were not moved, so that broken translation does not show"),
        ],
        history=[{"stage": "md" if monitor.is_dynamics else "optimisation", **row} for row in rows],
    )


def _protocol(monitor: Watched, rows: Sequence[Row]) -> dict[str, Any]:
    stated = protocol_of(monitor)
    run = time.perf_counter() - monitor.began - monitor.seconds
    free = monitor.seconds - monitor.measuring_seconds
    return {
        "plan": stated["plan"],
        "every": f"{monitor.every} steps",
        "steps": rows[-1]["step"] if rows else 0,
        **({"timestep": f"{stated['timestep_fs']:g} fs"} if monitor.is_dynamics else {}),
        "center": stated["center"],
        "precision": str(monitor.symmetry.precision).removeprefix("torch."),
        "evaluator": monitor.symmetry.evaluator,
        "evaluations": monitor.symmetry.evaluations,
        "cost": f"{number(100 * monitor.seconds / run)} % of the run, {number(100 * free / run)} % without the rotated "
        "copies"
        if run > 0
        else "unknown",
        "versions": stated["versions"],
    }


def _notes(monitor: Watched, rows: Sequence[Row]) -> list[str]:
    if monitor.budget.last is None:
        return ["the dynamics has not run yet"]
    notes = [*_pushed(monitor), *_spun(monitor), *_bound(monitor, rows), *_conservative(monitor, rows)]
    if len(monitor.records) > 1:
        notes.append("frames of one trajectory are correlated: intervals that treat them as independent are too narrow")
    if monitor.symmetry.shared:
        notes.append(
            f"the calculator's {', '.join(monitor.symmetry.shared)} could not be copied and is shared with the "
            "dynamics, which may not be bit for bit what it is without the monitor: pass calculator= one of its own"
        )
    return notes


def _remainder(monitor: Watched, vector: Any, scale: float) -> str:
    """What the model's forces leave unexplained, and who made it."""
    rest = float(np.linalg.norm(vector))
    others = [] if type(monitor.dyn) is VelocityVerlet else [type(monitor.dyn).__name__]
    others += dict.fromkeys(type(c).__name__ for c in monitor.atoms.constraints)
    if others:
        return f"{number(rest)} is not explained by it ({' and '.join(others)}: what acts beside the model's forces)"
    if rest <= ROUNDED * scale:
        return f"{number(rest)} is not explained by it (velocity Verlet: rounding)"
    return (
        f"{number(rest)} is not explained by it, more than rounding: a step was broken off, or something else than "
        "velocity Verlet and the calculator's forces moved the atoms"
    )


def _gaps(monitor: Watched) -> list[str]:
    budget = monitor.budget
    if not budget.gaps or not budget.known:
        return []
    unknown = budget.instants - budget.known
    return [
        f"{budget.gaps} of {budget.instants - 1} steps are not in the budget, with what changed there"
        + (f": {unknown} times the calculator had no finite forces of these atoms to be read" if unknown else "")
    ]


def _pushed(monitor: Watched) -> list[str]:
    """The net force, and whether it accounts for the momentum."""
    budget = monitor.budget
    if not budget.known:
        return ["the calculator never had forces of these atoms that could be read without a call: there is no budget"]
    push = f"net force of the model {number(1e3 * budget.force)} meV/Å (root mean square over steps)"
    if not monitor.is_dynamics:
        return [push]
    scale = float(np.nansum(np.abs(monitor.atoms.get_momenta()))) / units.fs + budget.force * budget.time
    return [
        f"{push}; the momentum changed by {_size(budget.momentum)} eV·fs/Å, the net force makes "
        f"{_size(budget.impulse)}, and {_remainder(monitor, budget.momentum_remainder, scale)}",
        *_gaps(monitor),
    ]


def _spun(monitor: Watched) -> list[str]:
    """The net torque, and whether it accounts for the angular momentum."""
    budget, atoms = monitor.budget, monitor.atoms
    if atoms.pbc.any():
        return [
            "net torque and angular momentum are not defined for periodic structures: they would depend on which image "
            "of each atom is counted"
        ]
    if not math.isfinite(budget.torque):
        return []
    spin = f"net torque of the model {number(1e3 * budget.torque)} meV (root mean square over steps)"
    if not monitor.is_dynamics:
        return [spin]
    arms = np.linalg.norm(atoms.positions - atoms.get_center_of_mass(), axis=1)
    spun = float(np.nansum(arms * np.linalg.norm(atoms.get_momenta(), axis=1))) / units.fs
    return [
        f"{spin}; the angular momentum changed by {_size(budget.angular)} eV·fs ({_size(budget.angular / HBAR)} ħ) in "
        f"{number(budget.time)} fs, the model's torque makes {_size(budget.angular_impulse)}, and "
        f"{_remainder(monitor, budget.remainder, spun + budget.torque * budget.time)}"
    ]


def _size(vector: Any) -> str:
    return number(float(np.linalg.norm(vector)))


def _bound(monitor: Watched, rows: Sequence[Row]) -> list[str]:
    """Whether the energy varies over rotations by more than the torque of conservative forces allows."""
    pairs = [
        (row["energy_L_equiv"], row["energy_torque_bound_meV_per_atom"] ** 2)
        for row in rows
        if math.isfinite(row.get("energy_torque_bound_meV_per_atom", math.nan))
    ]
    if not pairs:
        return []
    variances, bounds = np.array(pairs).T
    spread, bound = (math.sqrt(max(float(values.mean()), 0.0)) for values in (variances, bounds))
    values = [record["quantities"]["energy"] for record in monitor.records if "energy" in record["quantities"]]
    floors = [max(one["floor"] or 0.0, one["nondeterminism"] or 0.0, one["resolution"] or 0.0) for one in values]
    if spread <= ROUND_OFF_FACTOR * max(floors, default=0.0):
        return []
    varies = f"over rotations the energy varies by {number(spread)} meV/atom"
    # Of a smooth energy (l = 1) the bound is an equality, and few rotations know neither side well: the difference
    # has to be seen over frames, each with rotations of its own.
    excess = variances - bounds
    error = float(excess.std(ddof=1)) / math.sqrt(len(excess)) if len(excess) > 2 else math.inf
    beyond = float(excess.mean()) > max(float(student.isf(1e-3, len(excess) - 1)) * error, 0.1 * bound**2)
    if beyond or bound < NO_TORQUE * spread:
        return [
            f"{varies}, more than the {number(bound)} meV/atom that the net torque allows ({len(excess)} frames): the "
            "forces are not the energy's gradient"
        ]
    return [f"{varies}; net torque allows {number(bound)} meV/atom (√(½⟨τ²⟩)) if the forces are the energy's gradient"]


def _conservative(monitor: Watched, rows: Sequence[Row]) -> list[str]:
    """Whether the forces are the energy's gradient, and where a drift of the total energy comes from."""
    if draws_anew(monitor.model):
        return [
            "the calculator draws new rotations at every call: energy and forces are those of one draw, there is no "
            "energy that the forces could be the gradient of, and their noise heats constant-energy dynamics",
            *_drift(monitor, rows),
        ]
    having = [row for row in rows if math.isfinite(row.get("defect_rms_meV_per_A", math.nan))]
    if not having:
        return _drift(monitor, rows)
    square, noise, forces = (
        float(np.mean([(1e-3 * row[f"{key}_meV_per_A"]) ** 2 for row in having]))
        for key in ("defect_rms", "defect_floor", "forces_size")
    )
    samples = DIRECTIONS * len(having)
    broken = not is_gradient(square, noise, forces, samples)
    frames = f"{len(having)} frame{'s' * (len(having) > 1)}"
    notes = [f"{words_on(square, noise, forces, samples)} ({frames}, random directions)"]
    notes += _drift(monitor, rows)
    power = [value for row in having if math.isfinite(value := row.get("defect_power_eV_per_ps", math.nan))]
    if not power:
        return notes
    if not broken:
        return [*notes, "what drift there is comes from the integrator (and from thermostats), not from the forces"]
    twirled = [row.get("twirled_defect_power_eV_per_ps", math.nan) for row in having]
    notes.append(
        f"non-conservative forces change the total energy at {_mean(power)} eV/ps; of the twirled model it would be "
        f"{_mean(twirled)} eV/ps: the difference comes with broken rotation, {_mean(np.subtract(power, twirled))} eV/ps"
    )
    return notes


def _drift(monitor: Watched, rows: Sequence[Row]) -> list[str]:
    """The drift of the total energy where it should be constant."""
    having = [row for row in rows if math.isfinite(row.get("total_eV", math.nan))]
    if type(monitor.dyn) is not VelocityVerlet or len(having) < 3:  # its children in ASE are thermostats
        return []
    times, changes = (np.array([row[key] for row in having]) for key in ("time_fs", "energy_change_eV"))
    line = energy_drift(1e-3 * times, changes)
    return [f"total energy: {line.in_words('eV/ps')}, {number(float(changes[-1]))} eV in all"]


def _mean(values: Any) -> str:
    """Mean over frames with its standard error."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return "–"
    error = float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan
    return f"{number(float(known.mean()))}" + (f" ± {number(error)}" if len(known) > 1 else " (one frame)")
