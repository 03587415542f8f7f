"""What an audit costs beside the model: processor milliseconds a structure, with a model that costs next to nothing.

    python tests/benchmarks/bench_own_work.py
    python tests/benchmarks/bench_own_work.py --against ../before

Small molecules, displaced at random, by default 48 rotations, one thread. "model" is what the same copies take in full
batches without an audit, or one by one with EMT. With ``--against`` another checkout of this repository is measured in
turn, and the ratio of the two is printed, so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]


def measured(kind: str, count: int) -> dict[str, float]:
    """Milliseconds of this process, by structure: the audit, and the model alone."""
    import torch
    from ase.calculators.emt import EMT
    from bench_cluster import LennardJones, structures

    from equiv_probe_ase import audit
    from equiv_probe_ase.calculators.inspection import engine_for

    torch.set_num_threads(1)
    calculator = EMT() if kind == "emt" else LennardJones()
    given = structures(count)
    audit(calculator, given[:20], progress=False)  # imports and first calls
    began = time.process_time()
    report = audit(calculator, given, progress=False)
    whole = time.process_time() - began
    engine = engine_for(calculator, batched=True, atoms_per_call=None)
    copies = [atoms for atoms in given for _ in range(round(report.protocol["evaluations"] / count))]
    began = time.process_time()
    list(engine.run(copies, ["energy", "forces"]))
    return {"audit": 1e3 * whole / count, "model": 1e3 * (time.process_time() - began) / count}


def in_child(checkout: Path, kind: str, count: int) -> dict[str, float]:
    """The same, with the packages of a checkout."""
    paths = os.pathsep.join([str(checkout), str(checkout / "plugins")])
    command = [sys.executable, "-W", "ignore", __file__, "--count", str(count), "--kind", kind, "--only"]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, cwd=checkout)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="structures")
    parser.add_argument("--kind", nargs="*", default=["lj", "emt"], choices=["lj", "emt"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measured(options.kind[0], options.count)))
        return
    print("| model | audit, ms | model, ms | own, ms |" + (" own, before | ratio |" if options.against else ""))
    print("|---|---|---|---|" + ("---|---|" if options.against else ""))
    for kind in options.kind:
        pairs = []
        for _ in range(options.repeats):
            checkouts = [HERE, *([options.against.resolve()] if options.against else [])]
            pairs.append([in_child(checkout, kind, options.count) for checkout in checkouts])
        own = [[one["audit"] - one["model"] for one in pair] for pair in pairs]
        cells = [kind, *(f"{statistics.median(pair[0][key] for pair in pairs):.2f}" for key in ("audit", "model"))]
        cells.append(f"{statistics.median(one[0] for one in own):.2f}")
        if options.against:
            ratio = statistics.median(one[1] / one[0] for one in own)
            cells += [f"{statistics.median(one[1] for one in own):.2f}", f"{ratio:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
