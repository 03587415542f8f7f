"""How often ``ep.trace`` names the planted layer, and how often it accuses a network that has none.

``python tests/benchmarks/bench_trace.py [SEEDS] [--held-out]`` prints a row for each of the networks that the tests
plant defects in; or of those that no limit was chosen on, 48 wide and with other seeds where there is a choice.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.equiv_probe.diagnosis.layers import networks
from tests.equiv_probe.diagnosis.layers.held_out import HELD_OUT


def narrow(model: Any, batch: Any, schema: Any) -> tuple[Any, Any, Any]:
    """The same in float32."""
    tensors = (
        {n: v.float() if v.is_floating_point() else v for n, v in batch.items()} if isinstance(batch, dict) else {}
    )
    return model.float(), tensors or batch, schema


def main(seeds: Sequence[int], families: Mapping[str, networks.Planted]) -> None:
    """Print a row for each network: planted layers that were named alone, and false accusations."""
    for name, family in families.items():
        named = accused = layers = 0
        began = time.perf_counter()
        for seed in seeds:
            for layer in family.layers:
                found = ep.trace(*family.make(seed, layer), seed=seed, progress=False)
                right = {one.path for one in found.culprits} == {layer}  # which may be called twice
                named += right
                if not right:
                    print(f"  {name} {layer} seed {seed}: {[one.label for one in found.culprits]}", flush=True)
        seconds = (time.perf_counter() - began) / (len(seeds) * len(family.layers))
        for seed in seeds:
            for case in (family.make(seed, None), narrow(*family.make(seed, None))):
                found = ep.trace(*case, seed=seed, progress=False)
                broken = [one.label for one in found.layers if one.broken]
                accused += bool(found.culprits or broken)
                layers += len(found.layers)
                if found.culprits or broken:
                    print(f"  {name} without, {found.protocol['precision']} seed {seed}: {broken}", flush=True)
        whole = len(seeds) * len(family.layers)
        print(
            f"{name}: {named} of {whole} named, {accused} of {2 * len(seeds)} accused, {seconds:.1f} s each", flush=True
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(next((one for one in sys.argv[1:] if one.isdigit()), "20"))
    if "--held-out" in sys.argv:
        networks.WIDTH = 48
        main(range(100, 100 + count), {**HELD_OUT, **networks.FAMILIES})
    else:
        main(range(count), networks.FAMILIES)
