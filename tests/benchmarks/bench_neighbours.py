"""What part of an evaluation in batches is neighbour lists and graphs: what sharing them over rotations could save.

    $EQUIV_PROBE_HOSTS/mace/bin/python tests/benchmarks/bench_neighbours.py mace:<file>
    $EQUIV_PROBE_HOSTS/metatrain/bin/python tests/benchmarks/bench_neighbours.py "metatomic:<file>"

Rotated copies of rattled molecules and crystals go through the evaluator in full batches. "Lists" are the search for
neighbours alone, "graphs" all that is made of a structure before the model sees it, in processor seconds of the whole.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from ase.build import bulk, molecule
from bench_evaluators import NAMES, rotated

from equiv_probe_ase.calculators.by_name import make_calculator
from equiv_probe_ase.calculators.inspection import engine_for

if TYPE_CHECKING:
    from ase import Atoms

SEARCHES = {
    "mace": {"mace.data.atomic_data:get_neighborhood": "lists"},
    "metatomic": {"metatomic_ase._neighbors:AllNeighborsCalculator.compute": "lists"},
    "schnetpack": {
        "schnetpack.transform.neighborlist:ASENeighborList._build_neighbor_list": "lists",
        "schnetpack.transform.neighborlist:MatScipyNeighborList._build_neighbor_list": "lists",
        "schnetpack.interfaces.ase_interface:AtomsConverter.__call__": "graphs",
    },
    "chgnet": {"chgnet.graph.converter:CrystalGraphConverter.forward": "lists"},
}
"""Functions that search for neighbours or make graphs, by preset."""


def cases() -> dict[str, list[Atoms]]:
    """Molecules and crystals, rattled."""
    found = {
        "ethanol, 9 atoms": molecule("CH3CH2OH"),
        "benzene, 12 atoms": molecule("C6H6"),
        "NaCl, 8 atoms": bulk("NaCl", "rocksalt", 5.64, cubic=True),
        "NaCl, 64 atoms": bulk("NaCl", "rocksalt", 5.64, cubic=True) * 2,
    }
    for seed, atoms in enumerate(found.values()):
        atoms.rattle(0.05, seed=seed)
    return {name: [atoms] for name, atoms in found.items()}


def timed(owner: Any, name: str, spent: Counter[str], key: str) -> None:
    """Count the processor seconds of a function, wherever it is called from."""
    function = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[key] += time.process_time() - began

    setattr(owner, name, call)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rotations", type=int, default=48)
    parser.add_argument("--device")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spent: Counter[str] = Counter()
    for place, kind in SEARCHES.get(options.model.partition(":")[0], {}).items():
        module, _, path = place.partition(":")
        owner: Any = import_module(module)
        *classes, name = path.split(".")
        for one in classes:
            owner = getattr(owner, one)
        timed(owner, name, spent, kind)
    calculator = make_calculator(options.model, device=options.device)
    engine = engine_for(calculator, batched=True, atoms_per_call=None)
    if hasattr(engine.evaluator, "graph"):
        timed(engine.evaluator, "graph", spent, "graphs")
    print("| structures | ms a structure | lists | graphs, with them |")
    print("|---|---|---|---|")
    for name, structures in cases().items():
        copies = rotated(structures, options.rotations)
        list(engine.run(copies[: len(copies) // 2], NAMES))  # compiles, for each size
        spent.clear()
        began = time.process_time()
        list(engine.run(copies, NAMES))
        whole = time.process_time() - began
        parts = [f"{100 * spent[key] / whole:.1f} %" if key in spent else "" for key in ("lists", "graphs")]
        print(f"| {name} | {1e3 * whole / len(copies):.2f} | {' | '.join(parts)} |", flush=True)


if __name__ == "__main__":
    main()
