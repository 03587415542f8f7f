"""What an audit costs beside the model: processor milliseconds a structure, and the audit's time over the model's.

    python tests/benchmarks/bench_own_work.py lj emt chgnet 7net-0 "schnetpack:<file>"
    $EQUIV_PROBE_HOSTS/mace/bin/python tests/benchmarks/bench_own_work.py "mace:<file>"
    python tests/benchmarks/bench_own_work.py lj --against ../before

By default 48 rotations, energies and forces, one thread. "lj" is a Lennard-Jones potential in batches that costs next
to nothing; models by name are those of the command line. Structures are small molecules, displaced at random, or
rock salts of 2 to 16 atoms with ``--crystals``. "model" is what as many rotated copies of the same structures take in
full batches without an audit, or one by one where the model has no batches; "audit / model" is the ratio of the two,
within one process. With ``--against`` another checkout of this repository is measured in turn, and the ratio of the two
own works is printed, so that a busy machine slows both alike.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parents[2]


def measured(model: str, count: int, *, crystals: bool) -> dict[str, float]:
    """Milliseconds of this process, by structure: the audit, and the model alone."""
    import torch
    from ase.calculators.emt import EMT
    from bench_cluster import LennardJones, structures
    from bench_evaluators import NAMES, rattled, rotated

    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe_ase import audit
    from equiv_probe_ase.auditing.audit import BESIDE
    from equiv_probe_ase.calculators.by_name import make_calculator
    from equiv_probe_ase.calculators.inspection import engine_for

    torch.set_num_threads(1)
    cheap = {"lj": LennardJones, "emt": EMT}
    calculator = cheap[model]() if model in cheap else make_calculator(model)
    given = rattled(count, molecules=False) if crystals else structures(count)
    audit(calculator, given[:20], properties=NAMES, progress=False)  # imports and first calls
    engine = engine_for(calculator, batched=True, atoms_per_call=None)
    copies = rotated(given, RotationPlan().size + BESIDE)

    def took(work: Callable[[], Any]) -> tuple[Any, float]:
        began = time.process_time()
        found = work()
        return found, 1e3 * (time.process_time() - began) / count

    def alone() -> float:
        return took(lambda: list(engine.run(copies, NAMES)))[1]

    before = alone()
    report, whole = took(lambda: audit(calculator, given, properties=NAMES, progress=False))
    as_many = report.protocol["evaluations"] / len(copies)
    return {"audit": whole, "model": as_many * (before + alone()) / 2}  # what drifts on a busy machine cancels


def in_child(checkout: Path, model: str, options: argparse.Namespace) -> dict[str, float]:
    """The same, with the packages of a checkout."""
    paths = os.pathsep.join([str(checkout), str(checkout / "plugins")])
    command = [sys.executable, "-W", "ignore", __file__, model, "--count", str(options.count), "--only"]
    command += ["--crystals"] if options.crystals else []
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, cwd=checkout)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="structures")
    parser.add_argument("models", nargs="*", default=["lj", "emt"])
    parser.add_argument("--crystals", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measured(options.models[0], options.count, crystals=options.crystals)))
        return
    print(
        "| model | audit, ms | model, ms | own, ms | audit / model |"
        + (" own, before | ratio |" if options.against else "")
    )
    print("|---|---|---|---|---|" + ("---|---|" if options.against else ""))
    for model in options.models:
        pairs = []
        for _ in range(options.repeats):
            checkouts = [HERE, *([options.against.resolve()] if options.against else [])]
            pairs.append([in_child(checkout, model, options) for checkout in checkouts])
        own = [[one["audit"] - one["model"] for one in pair] for pair in pairs]
        cells = [model.partition(":")[0]]
        cells += [f"{statistics.median(pair[0][key] for pair in pairs):.2f}" for key in ("audit", "model")]
        cells.append(f"{statistics.median(one[0] for one in own):.2f}")
        cells.append(f"{statistics.median(pair[0]['audit'] / pair[0]['model'] for pair in pairs):.3f}")
        if options.against:
            ratio = statistics.median(one[1] / one[0] for one in own)
            cells += [f"{statistics.median(one[1] for one in own):.2f}", f"{ratio:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
