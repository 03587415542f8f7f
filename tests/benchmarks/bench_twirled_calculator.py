"""What a force call costs when it is averaged over rotations, as a multiple of the plain calculator's.

    python tests/benchmarks/bench_twirled_calculator.py

All ways take rotates in one run, on structures that are moved a little each time so that nothing comes from memory, and
medians of the ratios to the plain call of the same rotate are printed: a busy machine slows all alike. K evaluations
one by one would cost K; what batching saves is the overhead of a call, and what is left is the arithmetic.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase.build import bulk, molecule
from rich.console import Console
from rich.table import Table

from equiv_probe import RotationPlan
from equiv_probe_ase import TwirledCalculator, make_calculator

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase import Atoms

TRANSFORMER = Path(__file__).parents[2] / "integrations" / "force_field" / "transformer.py"
DESIGNS = ("klein", "tetrahedral", "octahedral", "icosahedral")


def cases() -> dict[str, tuple[Callable[[], Any], Atoms]]:
    """Models that are installed, each with a structure that it knows."""
    crystal = bulk("NaCl", "rocksalt", 5.64) * (2, 1, 1)
    found: dict[str, tuple[Callable[[], Any], Atoms]] = {
        "transformer, ethanol": (lambda: make_calculator(f"{TRANSFORMER}:calculator"), molecule("CH3CH2OH")),
        "CHGNet, NaCl of 4 atoms": (lambda: make_calculator("chgnet"), crystal),
        "EMT, Cu of 32 atoms": (lambda: make_calculator("emt"), bulk("Cu", cubic=True) * 2),
    }
    weights = Path(os.environ.get("EQUIV_PROBE_DATA", ".")).parent / "weights" / "orb_d3_xs_v2"
    for file in weights.glob("*.pt"):
        found["Orb-d3-xs-v2, ethanol"] = (
            lambda file=file: make_calculator(f"orb:{file}?model=orb-d3-xs-v2", device="cpu"),  # type: ignore[misc]
            molecule("CH3CH2OH"),
        )
    return found


def ways(model: Any) -> dict[str, Any]:
    """Calculators to compare: forces of each, asked for as dynamics does."""
    averages = {
        f"K = {plan.size}": TwirledCalculator(model, plan)
        for plan in (RotationPlan(design, replicates=1) for design in DESIGNS)
    }
    one_by_one = TwirledCalculator(model, RotationPlan("tetrahedral", replicates=1), batched=False)
    frame = TwirledCalculator(model, mode="random-frame")
    return {"plain": model, "random frame": frame, **averages, "K = 12, one by one": one_by_one}


def ratios(calculators: dict[str, Any], atoms: Atoms, repeats: int) -> dict[str, float]:
    """Median ratio to the plain call of the same rotate; the first rotate warms up and does not count."""
    found: dict[str, list[float]] = {name: [] for name in calculators}
    for rotate in range(repeats + 1):
        moved = atoms.copy()
        moved.rattle(0.02, seed=rotate)
        seconds = {}
        for name, calculator in calculators.items():
            calculator.reset()
            began = time.perf_counter()
            calculator.get_forces(moved)
            seconds[name] = time.perf_counter() - began
        if rotate:
            for name, spent in seconds.items():
                found[name].append(spent / seconds["plain"])
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Print one row per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="Time of a force call over the plain calculator's", box=None)
    rows = {}
    for name, (make, atoms) in cases().items():
        rows[name] = ratios(ways(make()), atoms, options.repeats)
    table.add_column("")
    for way in next(iter(rows.values())):
        table.add_column(way, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
