"""How much faster the batched evaluators are than one call per structure.

    python tests/benchmarks/bench_batching.py

The two, and the batch cut into calls of about `Evaluator.cpu_atoms_per_call` atoms, take turns in one run, and
medians of the paired ratios are printed, so that a busy machine slows all alike. Energy, forces and stress are asked
for.

What limits the ratio on a CPU: the overhead of a call disappears, the arithmetic does not. Building the graphs anew for
every copy is 1 to 12 % of a batch (most for Orb), so sharing them over the rotations would buy little, and it would
hide neighbour caps and ties. Beyond 32 MiB per tensor glibc gives memory back after every operation, and fetching fresh
pages makes large batches of edge-heavy models (SevenNet) slower than small ones: hence the last column.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase.build import bulk, fcc111, molecule
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation

from equiv_probe_ase.evaluators import Evaluator, LoopEvaluator, evaluator_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ase import Atoms
    from ase.calculators.calculator import Calculator

PROPERTIES = ["energy", "forces", "stress"]


def cases() -> dict[str, list[Atoms]]:
    """Return named lists of structures."""
    crystal = bulk("NaCl", "rocksalt", 5.64) * (2, 1, 1)
    large = bulk("NaCl", "rocksalt", 5.64, cubic=True) * (2, 2, 1)
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    slab.pbc = True
    ethanol = molecule("CH3CH2OH")
    ethanol.set_cell([12, 13, 14])  # CHGNet needs a cell
    ethanol.pbc = True
    for seed, atoms in enumerate((crystal, large, slab, ethanol)):
        atoms.rattle(0.05, seed=seed)
    mixed = [copy for atoms in (crystal, slab, ethanol, bulk("Si")) for copy in rotated_copies(atoms, 4)]
    return {
        "48 copies of NaCl, 4 atoms": rotated_copies(crystal, 48),
        "48 copies of ethanol, 9 atoms": rotated_copies(ethanol, 48),
        "16 structures, 2 to 12 atoms": mixed,
        "12 copies of NaCl, 32 atoms": rotated_copies(large, 12),
    }


def rotated_copies(atoms: Atoms, count: int) -> list[Atoms]:
    """Return copies rotated by independent Haar rotations, cells included."""
    copies = []
    for rotate in Rotation.random(count, random_state=0).as_matrix():
        copy = atoms.copy()
        copy.set_cell(copy.cell.array @ rotate.T)
        copy.positions = copy.positions @ rotate.T
        copies.append(copy)
    return copies


def chgnet() -> Calculator:
    """CHGNet 0.3.0 with its bundled weights."""
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device="cpu", on_isolated_atoms="ignore")


def sevennet() -> Calculator:
    """SevenNet-0 with its bundled weights."""
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


def painn() -> Calculator:
    """A PaiNN of the usual size; its weights do not matter to its speed."""
    import schnetpack as spk
    from schnetpack.interfaces import SpkCalculator

    model = spk.model.NeuralNetworkPotential(
        representation=spk.representation.PaiNN(
            64, 3, spk.nn.GaussianRBF(n_rbf=20, cutoff=5.0), spk.nn.CosineCutoff(5.0)
        ),
        input_modules=[spk.atomistic.Strain(), spk.atomistic.PairwiseDistances()],
        output_modules=[spk.atomistic.Atomwise(n_in=64, output_key="energy"), spk.atomistic.Forces()],
    )
    return SpkCalculator(model, spk.transform.MatScipyNeighborList(cutoff=5.0), stress_key="stress", energy_unit="eV")


def orb() -> Calculator:
    """Orb-d3-xs-v2 from its half-precision file."""
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.calculator import ORBCalculator

    (half,) = (Path(os.environ["EQUIV_PROBE_DATA"]).parent / "weights" / "orb_d3_xs_v2").glob("*.fp16.pt")
    state = torch.load(half, weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "orb.pt")
        torch.save({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, path)
        model = pretrained.orb_d3_xs_v2(weights_path=path, device="cpu", precision="float32-highest", compile=False)
    return ORBCalculator(model, device="cpu")


def in_calls_of(evaluator: Evaluator, atoms_per_call: int, structures: list[Atoms]) -> Callable[[], None]:
    """Return the evaluation in several calls of about so many atoms."""
    per_call = max(1, round(atoms_per_call / np.mean([len(atoms) for atoms in structures])))

    def run() -> None:
        for start in range(0, len(structures), per_call):
            evaluator.evaluate(structures[start : start + per_call], PROPERTIES)

    return run


def seconds(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time every way ``repeats`` times, in turn, after one untimed round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


def rows(name: str, calculator: Calculator, repeats: int) -> Iterator[tuple[str, ...]]:
    """Yield one table row per case."""
    loop, batch = LoopEvaluator(calculator), evaluator_for(calculator)
    for case, structures in cases().items():
        atoms_per_call = batch.cpu_atoms_per_call or 10**9
        times = seconds(
            {
                "loop": lambda s=structures: loop.evaluate(s, PROPERTIES),
                "batch": lambda s=structures: batch.evaluate(s, PROPERTIES),
                "calls": in_calls_of(batch, atoms_per_call, structures),
            },
            repeats,
        )
        ratios = {
            way: statistics.median(a / b for a, b in zip(times["loop"], times[way], strict=True)) for way in times
        }
        milliseconds = {way: 1000 * statistics.median(spent) / len(structures) for way, spent in times.items()}
        yield (
            name,
            case,
            f"{milliseconds['loop']:.1f}",
            f"{milliseconds['batch']:.1f}",
            f"{ratios['batch']:.2f}",
            f"{ratios['calls']:.2f} ({batch.cpu_atoms_per_call or 'all'})",
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    calculators = {"CHGNet": chgnet, "SevenNet-0": sevennet, "PaiNN (SchNetPack)": painn}
    if "EQUIV_PROBE_DATA" in os.environ:
        calculators["Orb-d3-xs-v2"] = orb
    table = Table("calculator", "structures", title=f"CPU, {options.threads} thread(s), median of {options.repeats}")
    for header in ("loop, ms each", "one call, ms each", "loop / one call", "loop / calls (of atoms)"):
        table.add_column(header, justify="right")
    for name, build in calculators.items():
        for row in rows(name, build(), options.repeats):
            table.add_row(*row)
        table.add_section()
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
