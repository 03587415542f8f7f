"""What the probe costs: training time with it over training time without it, in one run.

    python tests/benchmarks/bench_probe.py [--device cuda]

Peak memory is that of one training step that is measured over one that is not: beyond the weights, what tensors hold.

Loops of the same length with and without the probe take rotates, so that a busy machine slows all alike, and medians of
paired ratios are printed with the quartiles. The ratio to expect on paper: a training step costs about three forward
passes, a measurement two (hooks in eval mode; steps in the step's own mode, where dropout costs, and three closures
without the network besides), so a fiftieth of 2/3 is 1.3 %. The twirl is K rotations over K plain forward passes of the
same network: below one where stacking pays.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from peak_memory import peak_memory
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEMA = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})


class Transformer(nn.Module):
    """An unconstrained transformer on positions ``(B, N, 3)``."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True)
        self.embed, self.read = nn.Linear(3, width), nn.Linear(width, 3)
        self.body = nn.TransformerEncoder(layer, 3)

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        """Forces ``(B, N, 3)``."""
        return {"forces": self.read(self.body(self.embed(pos - pos.mean(1, keepdim=True))))}


@contextmanager
def training(device: str, how: str, every: int) -> Iterator[Callable[[], None]]:
    """One step of training, to be called; ``how``: ``"without"``, ``"hooks"``, ``"step"``, ``"step, augmented"``."""
    torch.manual_seed(0)
    model = Transformer().to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    x, y = torch.randn(2, 32, 16, 3, device=device)
    probe = ep.Probe(model, SCHEMA, every=every)

    def loss_of() -> Tensor:
        return (model(x)["forces"] - y).square().mean()

    def step() -> None:
        loss = probe.step(loss_of) if how.startswith("step") else loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    augmenting = ep.augment(model, SCHEMA) if how.endswith("augmented") else nullcontext()
    with augmenting, nullcontext() if how.startswith("without") else probe:
        yield step


def train(steps: int, device: str, how: str, every: int) -> float:
    """Seconds for a training loop after warming up."""
    with training(device, how, every) as step:
        for _ in range(every):  # the first measurement infers and checks
            step()
        return clock(lambda: [step() for _ in range(steps)], device)


def memory(device: str, how: str) -> float:
    """Peak memory of a step that is measured, in bytes."""
    with training(device, how, 1) as step:
        step()
        return float(peak_memory(step, device))


def twirl(device: str) -> float:
    """The full mode's K rotations over K plain forward passes."""
    torch.manual_seed(0)
    model = Transformer().to(device).eval()
    x = torch.randn(32, 16, 3, device=device)
    plan = ep.RotationPlan()
    with torch.no_grad(), ep.Probe(model, SCHEMA, plan, full=lambda step: step > 0) as probe:
        model(x)
        probe.live.copies.stacks = True  # its one check is no part of the steady cost
        plain = clock(lambda: [model.forward(x) for _ in range(plan.size)], device)
        return clock(lambda: model(x), device) / plain


def clock(run: Callable[[], object], device: str) -> float:
    """Seconds."""
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    table = Table("what", "with / without", "quartiles", title=f"the probe on {args.device}")
    cases = {
        "hooks, every 50th call": ("hooks", 50),
        "hooks, every call": ("hooks", 1),
        "step, every 50th": ("step", 50),
        "step, every one": ("step", 1),
        "step with augmentation, every 50th": ("step, augmented", 50),
    }
    ratios: dict[str, list[float]] = {name: [] for name in (*cases, "no probe again (noise of this machine)")}
    for _ in range(args.rounds):
        for name, (how, every) in cases.items():
            steps = args.steps * (4 if every > 1 else 1)  # what is small is measured longer
            plain = how.replace("step", "without").replace("hooks", "without")
            ratios[name].append(train(steps, args.device, how, every) / train(steps, args.device, plain, every))
        again = [train(args.steps, args.device, "without", 50) for _ in range(2)]
        ratios["no probe again (noise of this machine)"].append(again[0] / again[1])
    ratios["48 rotations / 48 forward passes"] = [twirl(args.device) for _ in range(args.rounds)]
    for how in ("hooks", "step"):
        ratios[f"peak memory, {how}"] = [memory(args.device, how) / memory(args.device, "without")]
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        table.add_row(name, f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
