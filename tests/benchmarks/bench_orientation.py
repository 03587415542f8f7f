"""What averages leave by how their design lies in the frame of the model: at random, along the axes, as a survey says.

    python tests/benchmarks/bench_orientation.py
    python tests/benchmarks/bench_orientation.py --ethanol metatomic:trained-1.pt      # of bench_averaging.py --keep

Of the shipped transformer and, with ``EQUIV_PROBE_DATA``, of Orb at ethanol; or of other calculators at ethanol. The
survey is of three frames; the rest, in random orientations, are evaluated at 960 rotations, which give the spectrum to
degree 9 in the frame of the model, and with it the root mean square that each design leaves, without chance. Along the
axes, ``product-6x3``, ``-6x5``, ``-6x7`` are the rotations of metatomic's averages for l_max = 1, 2, 3.
"""

from __future__ import annotations

import argparse
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.io import read
from bench_twirled_calculator import TRANSFORMER
from rich.console import Console, Group
from rich.table import Table

from equiv_probe import RotationPlan
from equiv_probe.estimation.choice_of_plan import aliasing, survey_plan
from equiv_probe.estimation.orientation import HIGHEST, frame_power, kept, oriented
from equiv_probe.rotations.designs import smallest_first
from equiv_probe.rotations.haar import from_quaternions
from equiv_probe_ase import make_calculator
from equiv_probe_ase.averaging.average import Average, Averager
from equiv_probe_ase.averaging.choice import Jury
from equiv_probe_ase.structures.quantities import choose
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOLECULES = TRANSFORMER.parent / "data" / "molecules.extxyz"
DATA = os.environ.get("EQUIV_PROBE_DATA")
ASKED = ["energy", "forces"]
SURVEYED = 3


def cases(at_ethanol: Sequence[str], count: int) -> Iterator[tuple[str, Any, list[Atoms]]]:
    """Models, each with frames in random orientations; the first of them are for the survey."""
    if not at_ethanol:
        yield "transformer", make_calculator(f"{TRANSFORMER}:calculator"), _frames(read(MOLECULES, ":"), count)
    if DATA is None:
        return
    weights = (Path(DATA).parent / "weights" / "orb_d3_xs_v2").glob("*.pt")
    ethanol = _frames(read(Path(DATA) / "ethanol_rmd17" / "train.xyz", ":"), count)
    for name in at_ethanol or [f"orb:{file}?model=orb-d3-xs-v2" for file in weights]:
        yield Path(name).name, make_calculator(name, device="cpu"), ethanol


def _frames(structures: Sequence[Atoms], count: int) -> list[Atoms]:
    rng = np.random.default_rng(0)
    rotations = RotationPlan("haar", count + SURVEYED, seed=5).rotations()[:, 0].numpy()
    frames = []
    for k, g in zip(rng.choice(len(structures), len(rotations), replace=False), rotations, strict=True):
        one = structures[k]
        frames.append(Atoms(one.symbols, one.positions @ g.T, cell=one.cell.array @ g.T, pbc=one.pbc))
    return frames


def table(title: str, model: Any, frames: Sequence[Atoms]) -> Group:
    """One line for each design: what it leaves on average over ``p``, by the spectra of the frames."""
    chosen = choose(model.implemented_properties, ASKED, None)
    raw = {name: replace(quantity, factor=1.0, extensive=False) for name, quantity in chosen.items()}
    averager = Averager(model)
    surveys = Jury.of(averager, frames[:SURVEYED], raw, {}).surveys(survey_plan(RotationPlan("haar")))
    spectra = spectrum(averager, frames[SURVEYED:], raw)
    lines = Table(title=f"{title}: energy in meV/atom, forces in meV/Å", box=None)
    for head in ("design", "rotations", "at random", "along the axes", "as a survey says", "over random"):
        lines.add_column(head, justify="left" if head == "design" else "right")
    for design in smallest_first(products=True):
        plan = RotationPlan(design, 1)
        if plan.degree >= HIGHEST:
            break
        quaternion = torch.tensor(oriented(plan, surveys)[0].orientation, dtype=torch.float64)
        ways = torch.stack([torch.eye(3, dtype=torch.float64), from_quaternions(quaternion)])
        aliased = [aliasing(plan, degree) for degree in range(1, 10)]
        at_random = [sum(a * float(of.trace()) / len(of) for a, of in zip(aliased, p, strict=True)) for p in spectra]
        as_told = torch.stack([kept(plan, power, ways) for power in spectra])
        left = 1e3 * torch.cat([torch.tensor(at_random)[:, None], as_told], 1).sqrt()
        texts = [f"{energy:.2g}, {forces:.2g}" for energy, forces in left.T.tolist()]
        ratio = (left[:, 2] / left[:, 0]).tolist()
        lines.add_row(design, str(plan.size), *texts, ", ".join(f"{one:.2f}" for one in ratio))
    return Group(lines, *(described(name, power) for name, power in zip(ASKED, spectra, strict=True)))


def described(name: str, power: Sequence[torch.Tensor]) -> str:
    """How an output's power falls from degree to degree, and how much of each two directions of the frame hold."""
    total = [float(of.trace()) for of in power]
    two = [float(torch.linalg.eigvalsh(of)[-2:].sum()) for of in power]
    roots = ", ".join(f"{1e3 * (at / (2 * degree + 1)) ** 0.5:.2g}" for degree, at in enumerate(total, 1))
    shares = ", ".join(f"{of / at:.2f}" for of, at in zip(two, total, strict=True))
    return f"{name}: root of the power at degrees 1 to 9 {roots}; of it, two directions of the frame hold {shares}"


def spectrum(averager: Averager, frames: Sequence[Atoms], quantities: Any) -> list[tuple[torch.Tensor, ...]]:
    """``ρ^l`` of energy per atom and of forces, to degree 9, means over frames."""
    plan = RotationPlan("design-14", 1)
    found: dict[str, list[tuple[torch.Tensor, ...]]] = {name: [] for name in ASKED}
    for k, frame in enumerate(frames):
        rotations = plan.rotations(plan.generator(k))
        average = Average(Rotator(frame, "origin", {}), plan, rotations, quantities, keep=True)
        averager.run([average])
        for name, values in average.values().items():
            scaled = values / (len(frame) if name == "energy" else 1)
            found[name].append(frame_power(scaled, rotations[0], plan.weights, highest=9))
    return [tuple(torch.stack(one).mean(0) for one in zip(*found[name], strict=True)) for name in ASKED]


def main() -> None:
    """Print one table a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--ethanol", nargs="*", default=[], metavar="CALCULATOR")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=140)
    for name, model, frames in cases(options.ethanol, options.frames):
        console.print(table(name, model, frames))


if __name__ == "__main__":
    main()
