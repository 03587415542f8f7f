"""What broken rotation does to a trajectory: force fields move the same molecule, watched.

    python integrations/dynamics/monitor.py                     # what is installed, a few minutes on one core
    python integrations/dynamics/monitor.py --steps 2000 --models transformer orb

Ethanol, alone in space, at rest as a whole and without rotation at first, 300 K of vibration, NVE. Nothing outside acts
on it: whatever pushes or spins it is the model's doing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.build import molecule
from rich.console import Console
from rich.table import Table

import equiv_probe as ep
from equiv_probe.report.formatting import number
from equiv_probe.scaling.table import write_csv
from equiv_probe_ase import make_calculator
from equiv_probe_ase.dynamics.budget import HBAR
from equiv_probe_ase.dynamics.molecular_dynamics import molecular_dynamics

if TYPE_CHECKING:
    from equiv_probe.results.report import Report

HERE = Path(__file__).parent
TRANSFORMER = f"{HERE.parent / 'force_field' / 'transformer.py'}:calculator"


def orb() -> str:
    """The Orb checkpoint beside the shared data, or empty."""
    folder = Path(os.environ.get("EQUIV_PROBE_DATA", HERE)).parent / "weights"
    return next((f"orb:{path}" for path in sorted(folder.glob("orb*/*.pt"))), "")


MODELS = {
    "gfn2-xtb": ("gfn2-xtb", "tblite", None),
    "sevennet-0": ("7net-0", "sevenn", None),
    "orb-d3-xs-v2": (orb(), "orb_models", None),
    "orb, torque left in": (orb(), "orb_models", None),
    "transformer": (TRANSFORMER, "torch", "float64"),
}
COLUMNS = {
    "torque_meV": "torque, meV",
    "L_hbar": "|ΔL|, ħ",
    "L_unexplained_hbar": "unexplained, ħ",
    "net_force_meV_per_A": "net force, meV/Å",
    "drift_eV_per_ps": "ΔE total, eV/ps",
    "power_eV_per_ps": "from F ≠ −∇E",
    "twirled_power_eV_per_ps": "twirled: left of it",
    "defect_meV_per_A": "F + ∇E, meV/Å",
    "energy_rms_meV_per_atom": "√L_equiv E, meV/atom",
    "forces_rms_meV_per_A": "√L_equiv F, meV/Å",
}


def measured(name: str, steps: int, every: int, folder: Path) -> dict[str, Any] | None:
    """One model's row; None if it is not there."""
    spec, package, dtype = MODELS[name]
    if not spec or importlib.util.find_spec(package) is None:
        print(f"{name}: not installed, or no weights at $EQUIV_PROBE_DATA/../weights")
        return None
    began = time.perf_counter()
    calculator = make_calculator(spec, dtype=dtype)
    if name.endswith("torque left in"):
        # Orb subtracts net force and net torque from what its network says of a molecule: a cure of the symptom.
        for module in calculator.model.modules():
            if hasattr(module, "remove_torque_for_nonpbc_systems"):
                module.remove_torque_for_nonpbc_systems = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = molecular_dynamics(
            calculator,
            molecule("CH3CH2OH"),
            steps=steps,
            timestep=0.5,
            temperature=300.0,
            every=every,
            conservative_every=every,
            plan=ep.RotationPlan("klein", 4),
            log=folder / f"{name.replace(', ', '-').replace(' ', '-')}.csv",
            name=name,
        )
    report.save(folder / f"{name.replace(', ', '-').replace(' ', '-')}.json")
    print(f"{name}: {time.perf_counter() - began:.0f} s")
    for note in report.notes:
        print("  " + note)
    return {"model": name, **row_of(report)}


def row_of(report: Report) -> dict[str, float]:
    """The figures of the table."""
    last, history = report.history[-1], report.history

    def vector(what: str) -> np.ndarray:
        return np.array([last[f"{what}_{axis}_eV_fs"] for axis in "xyz"])

    def mean(key: str) -> float:
        return float(np.mean([row[key] for row in history if key in row]))

    change = vector("angular_change")
    return {
        "torque_meV": 1e3 * last["net_torque_rms_eV"],
        "L_hbar": float(np.linalg.norm(change)) / HBAR,
        "L_unexplained_hbar": float(np.linalg.norm(change - vector("angular_impulse"))) / HBAR,
        "net_force_meV_per_A": 1e3 * last["net_force_rms_eV_per_A"],
        "drift_eV_per_ps": 1e3 * last["energy_change_eV"] / last["time_fs"],
        "power_eV_per_ps": mean("defect_power_eV_per_ps"),
        "twirled_power_eV_per_ps": mean("twirled_defect_power_eV_per_ps"),
        "defect_meV_per_A": float(np.sqrt(np.mean([row["defect_rms_meV_per_A"] ** 2 for row in history]))),
        "energy_rms_meV_per_atom": report["energy"].rms,
        "forces_rms_meV_per_A": report["forces"].rms,
    }


def main() -> None:
    """Run all, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--runs", type=Path, default=Path("dynamics_runs"), help="logs and reports of every model")
    given = parser.parse_args()
    rows = [row for name in given.models if (row := measured(name, given.steps, given.every, given.runs))]
    table = Table(title=f"Ethanol, NVE, {given.steps} steps of 0.5 fs, 300 K", title_justify="left")
    table.add_column("model")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(row["model"], *(number(row[key]) for key in COLUMNS))
    Console(width=170).print(table)
    write_csv(given.out / "monitor.csv", rows, digits=4, names=["model", *COLUMNS])


if __name__ == "__main__":
    main()
