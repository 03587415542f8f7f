"""What a diagnosis says of every planted defect and of its neighbour without it, over 20 seeds, and what it costs.

``python tests/benchmarks/bench_diagnosis.py [SEEDS] [--all]``: with ``--all`` every experiment is run, also when the
error is explained.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from statistics import median

import torch

import equiv_probe as ep

sys.path.insert(0, str(Path(__file__).parents[1] / "equiv_probe" / "diagnosis"))
from planted_defects import DEFECTS


def main() -> None:
    """Print a row for each defect: what was said and how often, with the defect and without it."""
    seeds = int(next((argument for argument in sys.argv[1:] if argument.isdigit()), "20"))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    right = {True: 0, False: 0}
    seconds, evaluations = [], []
    for name, defect in DEFECTS.items():
        said = {}
        for broken in (True, False):
            said[broken] = Counter[str]()
            for seed in range(seeds):
                case = defect.make(seed, broken)
                began = time.perf_counter()
                found = ep.diagnose(*case, everything="--all" in sys.argv)
                seconds.append(time.perf_counter() - began)
                evaluations.append(found.protocol["evaluations"])
                said[broken][found.verdict] += 1
                right[broken] += found.verdict in (defect.said if broken else ("nothing",))
        planted, neighbour = (
            ", ".join(f"{count} {verdict}" for verdict, count in said[broken].most_common()) for broken in (True, False)
        )
        print(f"{name:34s} | {planted:60s} | {neighbour}", flush=True)
    total = seeds * len(DEFECTS)
    print(f"\nnamed: {right[True]} of {total} with a defect; not accused: {right[False]} of {total} without")
    print(f"median {1e3 * median(seconds):.0f} ms and {median(evaluations):.0f} evaluations, most {max(evaluations)}")


if __name__ == "__main__":
    main()
