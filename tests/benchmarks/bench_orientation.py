"""What averages leave by how their design lies in the frame of the model: at random, along the axes, as a survey says.

    python tests/benchmarks/bench_orientation.py

Of the shipped transformer and, with ``EQUIV_PROBE_DATA``, of Orb, at frames in random orientations; the survey is of
three others. Root-mean-square errors of energies (meV/atom) and forces (meV/Å) against a design of degree 11.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.io import read
from bench_twirled_calculator import TRANSFORMER
from rich.console import Console
from rich.table import Table

from equiv_probe import RotationPlan
from equiv_probe.estimation.choice_of_plan import survey_plan
from equiv_probe.estimation.orientation import HIGHEST, oriented
from equiv_probe.rotations.designs import smallest_first
from equiv_probe_ase import TwirledCalculator, make_calculator
from equiv_probe_ase.averaging.average import Averager
from equiv_probe_ase.averaging.choice import Jury
from equiv_probe_ase.structures.quantities import choose

if TYPE_CHECKING:
    from collections.abc import Sequence

MOLECULES = TRANSFORMER.parent / "data" / "molecules.extxyz"
DATA = Path(os.environ.get("EQUIV_PROBE_DATA", "."))
ASKED = ["energy", "forces"]
SURVEYED = 3


def cases(count: int) -> dict[str, tuple[Any, list[Atoms]]]:
    """Models, each with frames in random orientations; the first of them are for the survey."""
    found = {"transformer": (make_calculator(f"{TRANSFORMER}:calculator"), read(MOLECULES, ":"))}
    for file in (DATA.parent / "weights" / "orb_d3_xs_v2").glob("*.pt"):
        orb = make_calculator(f"orb:{file}?model=orb-d3-xs-v2", device="cpu")
        found["Orb-d3-xs-v2, ethanol"] = (orb, read(DATA / "ethanol_rmd17" / "train.xyz", ":"))
        crystals = read(DATA / "mptrj_1000" / "mptrj-random-1k.xyz", ":")
        found["Orb-d3-xs-v2, MPtrj"] = (orb, [atoms for atoms in crystals if len(atoms) < 12])
    return {name: (model, _frames(structures, count)) for name, (model, structures) in found.items()}


def _frames(structures: Sequence[Atoms], count: int) -> list[Atoms]:
    rng = np.random.default_rng(0)
    rotations = RotationPlan("haar", count + SURVEYED, seed=5).rotations()[:, 0].numpy()
    frames = []
    for k, g in zip(rng.choice(len(structures), len(rotations), replace=False), rotations, strict=True):
        one = structures[k]
        frames.append(Atoms(one.symbols, one.positions @ g.T, cell=one.cell.array @ g.T, pbc=one.pbc))
    return frames


def errors(
    model: Any, plan: RotationPlan, frames: Sequence[Atoms], truth: Sequence[Any], draws: int
) -> tuple[float, float]:
    """Root mean squares over frames, each with several draws of rotations of its own."""
    calculator = TwirledCalculator(model, plan, redraw=True, properties=ASKED)
    found = {"energy": [], "forces": []}
    for _ in range(draws):
        for one, true in zip(calculator.calculate_batch(frames, ASKED), truth, strict=True):
            found["energy"].append((one["energy"] - true["energy"]) ** 2 / len(true["forces"]) ** 2)
            found["forces"].append(np.mean((one["forces"] - true["forces"]) ** 2))
    energy, forces = (1e3 * float(np.mean(found[name]) ** 0.5) for name in ASKED)
    return energy, forces


def table(title: str, model: Any, given: Sequence[Atoms], draws: int) -> Table:
    """One line for each design."""
    others, frames = given[:SURVEYED], given[SURVEYED:]
    reference = TwirledCalculator(model, RotationPlan("design-11", 1, seed=99), redraw=True, properties=ASKED)
    truth = reference.calculate_batch(frames, ASKED)
    quantities = choose(model.implemented_properties, ASKED, None)
    surveys = Jury.of(Averager(model), others, quantities, {}).surveys(survey_plan(RotationPlan("haar")))
    lines = Table(title=f"{title}: energy in meV/atom, forces in meV/Å", box=None)
    for head in ("design", "rotations", "at random", "along the axes", "as a survey says", "ratio to random"):
        lines.add_column(head, justify="left" if head == "design" else "right")
    for design in smallest_first(products=True):
        plan = RotationPlan(design, 1)
        if plan.degree >= HIGHEST:
            return lines
        along_the_axes = RotationPlan(design, 1, orientation=(1.0, 0.0, 0.0, 0.0))
        ways = (plan, along_the_axes, oriented(plan, surveys)[0])
        three = [errors(model, one, frames, truth, draws) for one in ways]
        ratio = (f"{last / first:.2f}" for first, last in zip(three[0], three[2], strict=True))
        texts = [f"{energy:.2g}, {forces:.2g}" for energy, forces in three]
        lines.add_row(design, str(plan.size), *texts, ", ".join(ratio))
    return lines


def main() -> None:
    """Print one table a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--only", default="", help="cases with this in their name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=140)
    for name, (model, frames) in cases(options.frames).items():
        if options.only in name:
            console.print(table(name, model, frames, options.draws))


if __name__ == "__main__":
    main()
