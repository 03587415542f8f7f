"""What the equivariance penalty costs, and what it buys beside augmentation at equal compute.

    python tests/benchmarks/bench_penalty.py [--passes 6000] [--seeds 3] [--json out.json]

The problem is small, so that it is learned in a minute: three atoms of one molecule, rattled by 0.2 Å and rotated at
random, whose energy is that of Morse bonds between all pairs; 1000 structures to train on, 500 held out. The model is a
perceptron of the coordinates about the centroid, with energy and forces from two heads, which knows nothing of
rotation. Ways to train, given the same number of passes forward and back: plain, augmented, and augmented with the
penalty at several weights; the penalty takes one pass more a step, since the prediction for the rotated batch is one of
its two (``prediction=``). All with AdamW and a cosine that ends with the passes. What is reported is ``L_total`` and
``L_equiv`` on held-out structures, in units of the labels' variance (the sum of energy and forces).

Seconds a step are measured first: loops of all ways take rotates, so that a busy machine slows all alike; medians and
quartiles of the ratio to a plain step.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.rotations.haar import haar

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = ep.Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar, "forces": ep.vector})
ATOMS, TRAINED, HELD_OUT = 3, 1000, 500


class ForceField(nn.Module):
    """A perceptron of all coordinates, with outputs in units of the labels' standard deviations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3 * ATOMS, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1 + 3 * ATOMS)
        )

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        out = self.layers((pos - pos.mean(1, keepdim=True)).flatten(1))
        return {"energy": out[:, 0], "forces": out[:, 1:].reshape(pos.shape)}


def load() -> tuple[Tensor, Tensor, Tensor]:
    """Positions (F, N, 3), and energies (F,) and forces (F, N, 3) in units of their deviations."""
    generator = torch.Generator().manual_seed(0)
    triangle = 1.6 * torch.eye(3).double()
    x = triangle + 0.2 * torch.randn(HELD_OUT + TRAINED, ATOMS, 3, generator=generator, dtype=torch.float64)
    x = (x @ haar(len(x), generator).mT).requires_grad_()
    i, j = torch.triu_indices(ATOMS, ATOMS, 1)
    energy = (1 - torch.exp(-(torch.linalg.vector_norm(x[:, i] - x[:, j], dim=-1) - 2.0))).square().sum(1)
    (slope,) = torch.autograd.grad(energy.sum(), x)
    energy, forces = energy.detach(), -slope
    energy = (energy - energy.mean()) / energy.std()
    return x.detach().float(), energy.float(), (forces / forces.square().mean().sqrt()).float()


def rotated(x: Tensor, f: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every structure and its forces by a rotation of its own."""
    g = haar(len(x), generator).float().mT
    return x @ g, f @ g


def loss_of(out: dict[str, Tensor], energy: Tensor, forces: Tensor) -> Tensor:
    return (out["energy"] - energy).square().mean() + (out["forces"] - forces).square().mean()


class Way:
    """One way to train.

    Args:
        name: as it is shown.
        augment: whether batches are rotated.
        weight: of the penalty; zero leaves it out.
        reuse: whether the prediction for the rotated batch is one of the penalty's two.
        passes: how many a step is counted as; None is how often it goes through the network.
    """

    def __init__(
        self, name: str, *, augment: bool, weight: float = 0.0, reuse: bool = True, passes: int | None = None
    ) -> None:
        self.name, self.augment, self.weight, self.reuse = name, augment, weight, reuse
        self.passes = passes or (1 if weight == 0 else 2 if reuse else 3)

    def loss(
        self,
        model: ForceField,
        penalty: ep.EquivariancePenalty,
        batch: tuple[Tensor, Tensor, Tensor],
        generator: torch.Generator,
    ) -> Tensor:
        x, energy, forces = batch
        if self.augment:
            x, forces = rotated(x, forces, generator)
        out = model(x)
        loss = loss_of(out, energy, forces)
        if self.weight:
            loss = loss + penalty(x, self.weight, generator=generator, prediction=out if self.reuse else None)
        return loss


WAYS = [
    Way("plain", augment=False),
    Way("augmented", augment=True),
    Way("augmented, half the steps", augment=True, passes=2),
    *(Way(f"augmented, penalty {w:g}", augment=True, weight=w) for w in (0.1, 1.0)),
]
FULL = Way("augmented, penalty of two new rotations", augment=True, weight=1.0, reuse=False)


def train(way: Way, passes: int, data: tuple[Tensor, ...], seed: int, arguments: Any) -> ep.analysis.OrbitLoss:
    """Train for so many passes, and return the loss on held-out frames."""
    x, energy, forces = data
    torch.manual_seed(seed)
    model = ForceField(arguments.width)
    penalty = ep.EquivariancePenalty(model, SCHEMA, stacked=True)
    steps, generator = passes // way.passes, torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    count = len(x) - HELD_OUT
    for step in range(steps):
        rate = 2e-3 * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate
        rows = torch.randint(count, (arguments.batch,), generator=generator)
        optimizer.zero_grad()
        way.loss(model, penalty, (x[rows], energy[rows], forces[rows]), generator).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    held = {"energy": energy[count:], "forces": forces[count:]}
    return ep.analysis.OrbitLoss(model.eval(), x[count:], held, SCHEMA, ep.RotationPlan(replicates=2), stacked=True)


def seconds(data: tuple[Tensor, ...], arguments: Any, rounds: int = 15) -> dict[str, list[float]]:
    """Of a step of each way, in rotates."""
    x, energy, forces = data
    ways, found = [WAYS[0], WAYS[1], WAYS[-1], FULL], {}
    model = ForceField(arguments.width)
    penalty = ep.EquivariancePenalty(model, SCHEMA, stacked=True)
    generator = torch.Generator().manual_seed(0)
    batch = x[: arguments.batch], energy[: arguments.batch], forces[: arguments.batch]

    def run(way: Way) -> float:
        began = time.perf_counter()
        for _ in range(4):
            model.zero_grad()
            way.loss(model, penalty, batch, generator).backward()
        return (time.perf_counter() - began) / 4

    for k in range(rounds + 1):
        for way in ways:
            spent = run(way)
            if k:
                found.setdefault(way.name, []).append(spent)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--passes", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, console = load(), Console()
    spent = seconds(data, arguments)
    table = Table("a step of", "seconds", "times a plain one", "quartiles")
    for name, values in spent.items():
        ratios = [a / b for a, b in zip(values, spent["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        table.add_row(name, f"{statistics.median(values):.4f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    console.print(table)
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for way in WAYS:
            began, loss = time.perf_counter(), train(way, arguments.passes, data, seed, arguments)
            with torch.no_grad():
                total, mean, equiv = (float(value) for value in loss())
            row = {"way": way.name, "seed": seed, "total": total, "mean": mean, "equiv": equiv}
            rows.append({**row, "steps": arguments.passes // way.passes, "seconds": time.perf_counter() - began})
            print(json.dumps(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    console.print(summary(rows))


def summary(rows: list[dict[str, Any]]) -> Table:
    """Means over seeds, with standard errors."""
    table = Table("way", "steps", "L_total", "L_mean", "L_equiv", "share")
    pick: Callable[[str, str], list[float]] = lambda name, key: [row[key] for row in rows if row["way"] == name]  # noqa: E731
    for name in dict.fromkeys(row["way"] for row in rows):
        cells = []
        for key in ("total", "mean", "equiv"):
            values = pick(name, key)
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            cells.append(f"{statistics.mean(values):.4f} ± {error:.4f}")
        share = 100 * sum(pick(name, "equiv")) / sum(pick(name, "total"))
        table.add_row(name, f"{pick(name, 'steps')[0]}", *cells, f"{share:.1f} %")
    return table


if __name__ == "__main__":
    main()
