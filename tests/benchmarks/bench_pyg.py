"""A plain PyG loop on ethanol: the share of the loss that is broken symmetry against the step, and what it costs.

    EQUIV_PROBE_DATA=... python tests/benchmarks/bench_pyg.py [--steps 2000]

A graph transformer with positions as features learns forces, without augmentation and with :class:`RandomRotation`.
Then loops with and without the probe alternate, and the median of paired ratios is printed with the quartiles.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.io import read
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import TransformerConv

import equiv_probe as ep
from equiv_probe_pyg import RandomRotation, attach

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH = 64


class GraphTransformer(nn.Module):
    """Three layers of attention over all pairs of atoms; positions are features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(10, WIDTH), nn.Linear(3, WIDTH)
        self.layers = nn.ModuleList([TransformerConv(WIDTH, WIDTH // 4, heads=4, edge_dim=3) for _ in range(3)])
        self.mixes = nn.ModuleList([nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU()) for _ in range(3)])
        self.read = nn.Linear(WIDTH, 3)

    def forward(self, data: Any) -> dict[str, Tensor]:
        """Forces ``(N, 3)`` in units of their spread."""
        h = self.embed(data.z) + self.place(data.pos)
        arrows = data.pos[data.edge_index[1]] - data.pos[data.edge_index[0]]
        for layer, mix in zip(self.layers, self.mixes, strict=True):
            h = h + mix(layer(h, data.edge_index, arrows))
        return {"forces": self.read(h)}


@cache
def graphs(count: int) -> list[Any]:
    """Structures, centred, with forces in units of their spread."""
    atoms = read(Path(os.environ["EQUIV_PROBE_DATA"]) / "ethanol_rmd17" / "train.xyz", f":{count}")
    pos = torch.tensor(np.stack([one.positions - one.positions.mean(0) for one in atoms])).float()
    forces = torch.tensor(np.stack([one.get_forces() for one in atoms])).float()
    numbers = torch.tensor(atoms[0].numbers)
    pairs = (1 - torch.eye(len(numbers))).nonzero().T
    forces = forces / forces.std()
    return [Data(z=numbers, pos=p, forces=f, edge_index=pairs) for p, f in zip(pos, forces, strict=True)]


class Rotating(torch.utils.data.Dataset[Any]):
    """Graphs through a transform, anew each time."""

    def __init__(self, kept: list[Any], transform: Any) -> None:
        self.kept, self.transform = kept, transform

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Any:
        return self.kept[index] if self.transform is None else self.transform(self.kept[index])


def batches(transform: Any, size: int) -> Any:
    """Batches without end."""
    while True:
        yield from DataLoader(Rotating(graphs(1000), transform), batch_size=size, shuffle=True, drop_last=True)


def share(steps: int, transform: Any) -> None:
    """Train, and print the share against the step."""
    torch.manual_seed(0)
    model = GraphTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    source = batches(transform, 32)
    marks = {int(steps * part) for part in (0.02, 0.05, 0.1, 0.2, 0.5, 1)}
    with attach(model, {"forces": ep.vector}, {"forces": "forces"}, every=5, window=20) as probe:
        for step in range(1, steps + 1):
            batch = next(source)
            loss = (model(batch)["forces"] - batch.forces).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step in marks:
                found = probe.compute()
                name = "equiv/train/forces/"
                values = [found[name + key] for key in ("L_total", "L_equiv", "share", "share_stderr")]
                print(f"  step {step:5d}  L_total {values[0]:.4f}  L_equiv {values[1]:.4f}  ", end="")
                print(f"share {100 * values[2]:.1f} ± {100 * values[3]:.1f} %")
    assert not probe.failures, probe.failures


def overhead(rounds: int, every: int) -> None:
    """Print the ratio of training times with and without the probe: blocks of one measurement each alternate."""
    source = batches(None, 32)
    kept = [next(source) for _ in range(4)]

    def loop(probing: bool) -> Callable[[], float]:
        torch.manual_seed(0)
        model = GraphTransformer()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        if probing:
            attach(model, {"forces": ep.vector}, every=every)

        def block() -> float:
            began = time.process_time()  # of this process: the machine may be shared
            for step in range(every):
                batch = kept[step % 4].clone()
                loss = (model(batch)["forces"] - batch.forces).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return time.process_time() - began

        return block

    without, probed = loop(False), loop(True)
    without(), probed()  # the first measurement finds out what the batches are
    ratios = [probed() / without() for _ in range(rounds)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"overhead at every={every}: median {100 * (middle - 1):+.2f} %, "
        f"quartiles {100 * (low - 1):+.2f} and {100 * (high - 1):+.2f} %"
    )


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    for name, transform in (("without augmentation", None), ("with RandomRotation", RandomRotation(center="origin"))):
        print(name)
        share(options.steps, transform)
    overhead(options.rounds, 50)


if __name__ == "__main__":
    main()
