"""What a sampler's end points owe to the frame, and what averaging its network over rotations costs.

    python tests/benchmarks/bench_sampler.py [--steps 1500] [--samples 64] [--device cuda]

An unconstrained transformer learns to flow from noise to one rigid shape of eight atoms in every orientation. Its
sampler of 50 Euler steps is audited plain, in a random frame per step, and with the network averaged over K rotations.
Cost is processor time (on a GPU wall time) of the sampler alone, over that of the plain one. Then K copies in one call
against K calls.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

FIELD = ep.Schema(inputs={"x": ep.point}, outputs={"v": ep.vector})
ATOMS, EULER = 8, 50


class Velocity(nn.Module):
    """An unconstrained transformer, positions ``(B, N, 3)`` and times ``(B,)`` to velocities."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.place, self.embed, self.time = (
            nn.Parameter(torch.randn(ATOMS, width)),
            nn.Linear(3, width),
            nn.Linear(1, width),
        )
        self.body, self.read = nn.TransformerEncoder(layer, 2), nn.Linear(width, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocities ``(B, N, 3)``."""
        return self.read(self.body(self.embed(x) + self.time(t[:, None, None]) + self.place))


def trained(steps: int, device: str) -> Velocity:
    """The velocity network after some steps of flow matching on the shape in random orientations."""
    torch.manual_seed(0)
    network = Velocity().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    shape = torch.randn(ATOMS, 3, device=device)
    shape = 2 * (shape - shape.mean(0))
    source = torch.Generator().manual_seed(0)
    for _ in track(range(steps), "training", console=Console(stderr=True), transient=True):
        end = shape @ ep.rotations.haar(128, source).to(shape).mT
        start, t = torch.randn_like(end), torch.rand(128, device=device)
        start = start - start.mean(1, keepdim=True)
        at = t[:, None, None]
        loss = (network((1 - at) * start + at * end, t) - (end - start)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def sampler(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Euler steps from noise to shape."""

    def euler(noise: Tensor) -> Tensor:
        x = noise
        for k in range(EULER):
            x = x + network(x, x.new_full((len(x),), k / EULER)) / EULER
        return x

    return euler


def seconds(run: Callable[[], object], device: str, repeats: int = 3) -> float:
    """The least of some times, after a first run that does not count."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    times = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        began = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - began)
    return min(times[1:])


def twirled(network: nn.Module, design: str, mode: Literal["fixed", "random"] = "fixed") -> ep.Twirled:
    """The network averaged over the rotations of a design."""
    return ep.Twirled(network, FIELD, ep.RotationPlan(design, 1), mode, center="origin")


def audits(network: nn.Module, noise: Tensor) -> Table:
    """Deviation of end points, and cost, by what is done to the network."""
    cases: dict[str, tuple[nn.Module, Literal["along", "fixed"]]] = {
        "plain": (network, "along"),
        "random frame per step": (twirled(network, "haar", "random"), "along"),
        "  its frames not rotated": (twirled(network, "haar", "random"), "fixed"),
    }
    for design in ("klein", "tetrahedral", "octahedral", "icosahedral"):
        cases[f"Twirled, {design}, K = {ep.RotationPlan(design, 1).size}"] = (twirled(network, design), "along")
    cases["Twirled, random, K = 12"] = (twirled(network, "tetrahedral", "random"), "along")
    table = Table("", "deviation, Å", "95 % interval", "of other noise", "floor, Å", "cost")
    table.title = f"{EULER} Euler steps, {tuple(noise.shape)}"
    plain = 0.0
    for name, (model, frames) in cases.items():
        audit = ep.audit_sampler(
            sampler(model), tuple(noise.shape), zero_mean=True, frames=frames, device=noise.device, progress=False
        )
        one = audit["end points"]
        cost = seconds(partial(sampler(model), noise), noise.device.type)
        plain = plain or cost
        low, high = one.rms_interval
        relative = f"{100 * one.rms / one.scale:.2g} %"
        cells = (f"{one.rms:.3g}", f"[{low:.3g}, {high:.3g}]", relative, f"{one.floor:.1g}", f"{cost / plain:.2f}")
        table.add_row(name, *cells)
    return table


def copies(network: nn.Module, noise: Tensor) -> Table:
    """Time of one call with K copies against K calls."""
    table = Table("K", "structures", "in one call, ms", "one by one, ms", "saved", title="K copies")
    for design in ("tetrahedral", "icosahedral"):
        turns = ep.RotationPlan(design, 1).rotations()[0].to(noise)
        for count in sorted({1, min(8, len(noise)), len(noise)}):
            x, t = noise[:count], noise.new_full((count,), 0.5)
            together = seconds(partial(twirled(network, design), x, t), noise.device.type, 10)
            each = seconds(partial(one_by_one, network, x, t, turns), noise.device.type, 10)
            numbers = (f"{1e3 * together:.2f}", f"{1e3 * each:.2f}", f"{each / together:.1f} ×")
            table.add_row(str(len(turns)), str(count), *numbers)
    return table


def one_by_one(network: nn.Module, x: Tensor, t: Tensor, turns: Tensor) -> list[Tensor]:
    """The orbit by K calls."""
    return [network(x @ g.mT, t) @ g for g in turns]


def main() -> None:
    """Train, audit, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    network = trained(options.steps, options.device)
    noise = torch.randn(options.samples, ATOMS, 3, device=options.device)
    with torch.no_grad():
        for table in (audits(network, noise), copies(network, noise)):
            Console(width=110).print(table)


if __name__ == "__main__":
    main()
