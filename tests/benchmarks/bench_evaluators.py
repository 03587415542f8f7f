"""What batches buy: models by name, all rotated copies one by one and in full batches.

    python tests/benchmarks/bench_evaluators.py chgnet 7net-0 "orb:<checkpoint>"
    python tests/benchmarks/bench_evaluators.py --structures 100 --rotations 48 --loop-every 20 "mace:<file>"

Models exclude each other's packages: run it in the environment of each, the rows of the tables fit together. Structures
are rattled rock salts, or ethanol with ``--molecules``, of 2 to 16 atoms, or those of ``--file``. Energy and forces are
asked for. With ``--loop-every`` the loop evaluates a share of the copies, and its calls and seconds are scaled.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from equiv_probe_ase.calculators.by_name import make_calculator
from equiv_probe_ase.calculators.inspection import engine_for
from equiv_probe_ase.structures.loading import load
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from ase import Atoms

    from equiv_probe_ase.evaluators.engine import Engine

NAMES = ["energy", "forces"]


def rattled(count: int, *, molecules: bool) -> list[Atoms]:
    """Structures of several sizes, one after another."""
    cell = bulk("NaCl", "rocksalt", 5.64)
    kinds = [molecule("CH3CH2OH")] if molecules else [cell, cell * (2, 1, 1), cell * (2, 2, 1), cell * (2, 2, 2)]
    found = [kinds[number % len(kinds)].copy() for number in range(count)]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.05, seed=seed)
    return found


def rotated(structures: list[Atoms], count: int) -> list[Atoms]:
    """So many randomly rotated copies of each."""
    drawn = [torch.tensor(Rotation.random(count, random_state=k).as_matrix()) for k in range(len(structures))]
    return [one for atoms, g in zip(structures, drawn, strict=True) for one in Rotator(atoms, "origin").copies(g)]


def timed(engine: Engine, copies: list[Atoms]) -> tuple[list[dict[str, np.ndarray]], float, int]:
    """Results, seconds and model calls, after two calls that compile and load.

    Seconds of this process on a CPU, so that what else runs there does not count; of the clock with a GPU.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    for _ in range(2):
        list(engine.run(copies[:4], NAMES))
    engine.calls = 0
    began = clock()
    found = list(engine.run(copies, NAMES))
    return found, clock() - began, engine.calls


def row(spec: str, copies: list[Atoms], options: argparse.Namespace) -> str:
    """One row of the table."""
    calculator = make_calculator(spec, device=options.device, dtype=options.dtype)
    batch = engine_for(calculator, batched=True, atoms_per_call=options.atoms_per_call)
    loop = engine_for(calculator, batched=False, atoms_per_call=None)
    found, seconds, calls = timed(batch, copies)
    alone, alone_seconds, _ = timed(loop, copies[:: options.loop_every])
    scale = len(copies) / len(alone)
    pairs = zip(found[:: options.loop_every], alone, strict=True)
    largest = max(float(np.abs(one["forces"] - other["forces"]).max()) for one, other in pairs)
    name, _, file = spec.partition("?")[0].partition(":")
    cells = (
        f"{name} {file.replace(chr(92), '/').rpartition('/')[2]}".strip(),
        f"{batch.evaluator.name}, ≤ {batch.atoms_per_call} atoms" if batch.evaluator.batched else batch.evaluator.note,
        f"{len(copies)} / {calls}",
        f"{alone_seconds * scale:.1f} / {seconds:.1f}",
        f"{alone_seconds * scale / seconds:.2f}",
        f"{1e3 * largest:.1g}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["chgnet", "7net-0"])
    parser.add_argument("--structures", type=int, default=8)
    parser.add_argument("--rotations", type=int, default=12)
    parser.add_argument("--molecules", action="store_true")
    parser.add_argument("--file", help="FILE or FILE@0:50, as ASE reads it")
    parser.add_argument("--loop-every", type=int, default=1)
    parser.add_argument("--atoms-per-call", type=int)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    options = parser.parse_args()
    structures = rattled(options.structures, molecules=options.molecules)
    if options.file:
        structures = [one.atoms for one in load(options.file)][: options.structures]
    copies = rotated(structures, options.rotations)
    print(f"\n{len(structures)} structures × {options.rotations} rotations, {torch.get_num_threads()} thread(s)\n")
    print("| model | evaluator | model calls, loop / batch | seconds, loop / batch | ratio | forces differ, meV/Å |")
    print("|---|---|---|---|---|---|")
    for spec in options.models:
        print(row(spec, copies, options), flush=True)


if __name__ == "__main__":
    main()
