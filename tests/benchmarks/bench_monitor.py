"""What the monitor costs: a step with it over a step without, for models of several speeds.

    python tests/benchmarks/bench_monitor.py
    python tests/benchmarks/bench_monitor.py --models transformer chgnet --rounds 5

Processor time, since the machine may be busy; runs with and without take rotates, and medians of the paired ratios are
printed. "every step" is the free part alone, the budget; the last column adds what the defaults add: 4 rotations every
100 steps, non-conservative forces every 1000, and the floor with every tenth measurement.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet
from rich.console import Console
from rich.table import Table

from equiv_probe_ase import SymmetryMonitor, make_calculator

TRANSFORMER = f"{Path(__file__).parents[2] / 'integrations/force_field/transformer.py'}:calculator"
MODELS = {
    "emt": ("emt", "ase", "CH3CH2OH"),
    "transformer": (TRANSFORMER, "torch", "CH3CH2OH"),
    "gfn2-xtb": ("gfn2-xtb", "tblite", "CH3CH2OH"),
    "chgnet": ("chgnet", "chgnet", "NaCl"),
    "sevennet-0": ("7net-0", "sevenn", "NaCl"),
}


def prepared(calculator: Any, name: str) -> Any:
    """Dynamics of a warm calculator."""
    crystal = name == "NaCl"
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True) if crystal else molecule(name)
    atoms.rattle(0.03, seed=0)
    atoms.set_momenta(np.random.default_rng(0).normal(scale=0.1, size=(len(atoms), 3)))
    atoms.calc = calculator
    atoms.get_forces()
    return VelocityVerlet(atoms, 0.5 * units.fs)


def seconds_a_step(dyn: Any, steps: int) -> float:
    """Time of a step, the first apart."""
    dyn.run(1)
    began = time.process_time()
    dyn.run(steps)
    return (time.process_time() - began) / steps


def ratios(spec: str, name: str, rounds: int, steps: int) -> tuple[float, float, float, float]:
    """Milliseconds of a step, its ratio with the free part, that of one measurement, and that of one defect."""
    calculator = make_calculator(spec)
    plain, free, measuring, defects = [], [], [], []
    for _ in range(rounds):
        seconds_a_step(prepared(calculator, name), 3)
        plain.append(seconds_a_step(prepared(calculator, name), steps))
        dyn = prepared(calculator, name)
        monitor = SymmetryMonitor(dyn, every=10**9, conservative_every=0, log=None)
        free.append(seconds_a_step(dyn, steps) / plain[-1])
        for into, call in ((measuring, monitor.symmetry.measure), (defects, monitor.symmetry.defect)):
            began = time.process_time()
            for step in range(3 if call == monitor.symmetry.measure else 1):  # no floor: one was measured at the start
                call(dyn.atoms.calc, dyn.atoms, step)
            into.append((time.process_time() - began) / plain[-1] / (step + 1))
    return 1e3 * statistics.median(plain), *(statistics.median(each) for each in (free, measuring, defects))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    given = parser.parse_args()
    table = Table("model", "step, ms", "every step", "a measurement, steps", "a defect, steps", "defaults, all")
    for model in given.models:
        spec, package, name = MODELS[model]
        if importlib.util.find_spec(package) is None:
            print(f"{model}: {package} is not installed")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step, free, measurement, defect = ratios(spec, name, given.rounds, given.steps)
        total = free - 1 + measurement / 100 + defect / 1000
        numbers = (f"{step:.2f}", f"+{100 * (free - 1):.1f} %", f"{measurement:.1f}", f"{defect:.1f}")
        table.add_row(model, *numbers, f"+{100 * total:.1f} %")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
