"""How often ``ep.trace`` names the planted layer, and how often it accuses a network that has none.

``python tests/benchmarks/bench_trace.py [SEEDS]`` prints a table of the networks that the tests plant defects in.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

import equiv_probe as ep

sys.path.insert(0, str(Path(__file__).parents[1] / "equiv_probe" / "diagnosis" / "layers"))
from networks import FAMILIES


def narrow(model: Any, batch: Any, schema: Any) -> tuple[Any, Any, Any]:
    """The same in float32."""
    tensors = (
        {n: v.float() if v.is_floating_point() else v for n, v in batch.items()} if isinstance(batch, dict) else {}
    )
    return model.float(), tensors or batch, schema


def main(seeds: int) -> None:
    """Print a row for each network: planted layers that were named alone, and false accusations."""
    for name, family in FAMILIES.items():
        named = accused = layers = 0
        began = time.perf_counter()
        for seed in range(seeds):
            for layer in family.layers:
                found = ep.trace(*family.make(seed, layer), seed=seed, progress=False)
                right = [one.path for one in found.culprits] == [layer]
                named += right
                if not right:
                    print(f"  {name} {layer} seed {seed}: {[one.label for one in found.culprits]}", flush=True)
        seconds = (time.perf_counter() - began) / (seeds * len(family.layers))
        for seed in range(seeds):
            for case in (family.make(seed, None), narrow(*family.make(seed, None))):
                found = ep.trace(*case, seed=seed, progress=False)
                broken = [one.label for one in found.layers if one.broken]
                accused += bool(found.culprits or broken)
                layers += len(found.layers)
                if found.culprits or broken:
                    print(f"  {name} without, {found.protocol['precision']} seed {seed}: {broken}", flush=True)
        whole = seeds * len(family.layers)
        print(f"{name}: {named} of {whole} named, {accused} of {2 * seeds} accused, {seconds:.1f} s each", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
