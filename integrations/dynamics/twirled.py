"""Constant-energy dynamics with broken models, as they are, in random frames, and averaged over 4 to 60 rotations.

    python integrations/dynamics/twirled.py          # some minutes on one thread
    python integrations/dynamics/twirled.py --orb orb-d3-xs-v2.pt

What an integrator conserves tells what the forces are: energy, if they are a gradient; angular momentum, if the energy
besides knows no directions. Written to `results/`: the table, every tenth step of the runs, and the figure.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from rich.console import Console
from rich.table import Table

from equiv_probe import RotationPlan
from equiv_probe.scaling.table import write_csv
from equiv_probe_ase import TwirledCalculator, make_calculator

sys.path.insert(0, str(Path(__file__).parent))
from drift import EVERY, Conserved, run_nve
from gradient_forces import direct_forces, gradient_forces

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
MOLECULES = HERE.parent / "force_field" / "data" / "molecules.extxyz"
DESIGNS = ("klein", "tetrahedral", "octahedral", "icosahedral")
COLUMNS = {
    "model": "",
    "mode": "",
    "K": "rotations",
    "energy drift": "meV/atom/ps",
    "energy scatter": "meV/atom",
    "predicted heating": "meV/atom/ps",
    "angular momentum drift": "ħ/ps",
    "angular momentum lost": "ħ, at most",
    "cost": "of the plain model",
}
COLOURS = {"plain": "black", "random-frame": "#D55E00", "average": ("#CC79A7", "#56B4E9", "#009E73", "#0072B2")}


def modes(model: Any) -> dict[str, Any]:
    """The calculators to compare, by name."""
    averages = {
        f"average, K = {plan.size}": TwirledCalculator(model, plan)
        for plan in (RotationPlan(design, replicates=1) for design in DESIGNS)
    }
    return {"plain": model, "random-frame": TwirledCalculator(model, mode="random-frame"), **averages}


def start(index: int, kelvin: float) -> Atoms:
    """A held-out molecule with momenta that neither move nor rotate it as a whole."""
    atoms = ase.io.read(MOLECULES, index)
    atoms.calc = None
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=np.random.default_rng(0))
    Stationary(atoms)
    ZeroRotation(atoms)
    return atoms


def heating(average: TwirledCalculator, frames: list[Atoms], femtoseconds: float) -> float:
    """What random frames are to heat: ``Σ ⟨|δF|²⟩ Δt / 2m`` in meV/atom/ps, from an average's spread along the run."""
    masses, found = frames[0].get_masses(), average.calculate_batch(frames, ["forces"])
    power = np.mean([((one["forces_std"] ** 2).sum(1) / (2 * masses)).sum() for one in found])
    return 1e3 * float(power) * femtoseconds * units.fs * 1000 * units.fs / len(masses)


def cost(calculators: dict[str, Any], atoms: Atoms, rounds: int) -> dict[str, float]:
    """Time of a force call over the plain model's: medians of ratios, all calculators taking rotates."""
    ratios: dict[str, list[float]] = {name: [] for name in calculators}
    for rotate in range(rounds + 1):
        moved = atoms.copy()
        moved.rattle(0.01, seed=rotate)
        seconds = {}
        for name, calculator in calculators.items():
            began = time.perf_counter()
            calculator.get_forces(moved)
            seconds[name] = time.perf_counter() - began
        if rotate:  # the first warms up
            for name, spent in seconds.items():
                ratios[name].append(spent / seconds["plain"])
    return {name: float(np.median(found)) for name, found in ratios.items()}


def study(name: str, model: Any, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Conserved]]:
    """Rows of the table and the runs of one model."""
    calculators = modes(model) if name != "GFN2-xTB" else {"plain": model}
    molecule = start(options.molecule, options.kelvin)
    ratios = cost(calculators, molecule, rounds=15)
    steps = options.orb_steps if name.startswith("Orb") else options.steps
    runs, rows = {}, []
    for mode, calculator in calculators.items():
        atoms = molecule.copy()
        atoms.calc = calculator
        runs[mode] = run = run_nve(atoms, steps, options.timestep)
        predicted: float | str = ""
        if mode == "random-frame":
            average = calculators["average, K = 60"]
            run.reckon_energies(average)
            predicted = heating(average, run.frames, options.timestep)
        rows.append(
            {
                "model": name,
                "mode": mode.partition(",")[0],
                "K": getattr(calculator, "plan", RotationPlan("haar", 1)).size,
                "energy drift": run.energy_drift,
                "energy scatter": run.energy_scatter,
                "predicted heating": predicted,
                "angular momentum drift": run.momentum_drift,
                "angular momentum lost": float(run.momentum_lost.max()),
                "cost": ratios[mode],
            }
        )
        print(f"{name}, {mode}: done", file=sys.stderr)
    return rows, runs


def models(orb: Path | None) -> dict[str, Callable[[], Any]]:
    """What is compared, as factories: a model is loaded when its rotate comes."""
    found: dict[str, Callable[[], Any]] = {
        "GFN2-xTB": lambda: make_calculator("gfn2-xtb?accuracy=0.01"),
        "transformer, gradient": gradient_forces,
        "transformer, direct": lambda: direct_forces(dtype="float64"),
    }
    if orb is not None:
        found["Orb, direct"] = lambda: make_calculator(f"orb:{orb}?model=orb-d3-xs-v2", device="cpu")
    return found


def figure(runs: dict[str, dict[str, Conserved]], path: Path) -> None:
    """Energy and angular momentum over time: a column for each model, a line for each way of using it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    shown, axes = pyplot.subplots(2, len(runs), figsize=(3.6 * len(runs), 5.6), sharex=True, squeeze=False)
    for column, (name, of_model) in enumerate(runs.items()):
        averages = iter(COLOURS["average"])
        for mode, run in of_model.items():
            colour = COLOURS[mode] if mode in COLOURS else next(averages)
            style = {"color": colour, "linewidth": 1.2, "label": mode, "linestyle": "--" if mode == "plain" else "-"}
            axes[0, column].plot(run.energy_times, 1e3 * (np.array(run.energies) - run.energies[0]), **style)
            axes[1, column].semilogy(run.times[1:], np.maximum(run.momentum_lost[1:], 1e-12), **style)
        axes[0, column].set_yscale("symlog", linthresh=1.0)
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel("time / ps")
    axes[0, 0].set_ylabel("energy − its start / meV per atom")
    axes[1, 0].set_ylabel("|L − its start| / ħ")
    handles, labels = axes[0, -1].get_legend_handles_labels()
    shown.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    shown.tight_layout(rect=(0, 0.1, 1, 1))
    shown.savefig(path, dpi=110)


def write(rows: list[dict[str, Any]], runs: dict[str, dict[str, Conserved]], folder: Path) -> None:
    """Write the table and every tenth step of the runs."""
    heads = {name: f"{name} ({unit})" if unit else name for name, unit in COLUMNS.items()}
    write_csv(folder / "twirled.csv", [{head: row[name] for name, head in heads.items()} for row in rows], digits=4)
    steps = []
    for name, of_model in runs.items():
        for mode, run in of_model.items():
            energies = run.energies[:: EVERY if len(run.energies) == len(run.times) else 1]
            for moment, energy, lost in zip(run.times[::EVERY], energies, run.momentum_lost[::EVERY], strict=True):
                away = 1e3 * (energy - run.energies[0])
                own = {"model": name, "mode": mode, "time (ps)": f"{moment:.4f}"}
                steps.append({**own, "energy - start (meV/atom)": float(away), "|L - start| (hbar)": float(lost)})
    write_csv(folder / "twirled_runs.csv", steps, digits=4)
    figure(runs, folder / "twirled.png")


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for the terminal."""
    shown = Table(box=None)
    for name, unit in COLUMNS.items():
        shown.add_column(f"{name}\n{unit}", justify="left" if not unit else "right")
    for row in rows:
        shown.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in (row[name] for name in COLUMNS)))
    return shown


def main() -> None:
    """Run the study."""
    found = sorted((Path(os.environ.get("EQUIV_PROBE_DATA", ".")).parent / "weights").glob("orb_d3_xs_v2/*.pt"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--orb-steps", type=int, default=100, help="fewer: Orb costs more")
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--kelvin", type=float, default=300.0)
    parser.add_argument("--molecule", type=int, default=6, help="of force_field/data/molecules.extxyz")
    parser.add_argument("--orb", type=Path, default=found[0] if found else None, help="checkpoint of orb-d3-xs-v2")
    parser.add_argument("--only", nargs="*", help="names of models")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, runs = [], {}
    for name, make in models(options.orb).items():
        if options.only is None or name in options.only:
            own, runs[name] = study(name, make(), options)
            rows += own
            write(rows, runs, options.output)  # after every model: the next may take long
    Console(width=160).print(table(rows))


if __name__ == "__main__":
    main()
