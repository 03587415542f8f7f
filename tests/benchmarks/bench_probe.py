"""What the probe costs: training time with it over training time without it, in one run.

    python tests/benchmarks/bench_probe.py [--device cuda] [--size small large] [--rounds 5]

At the defaults measuring follows its cost: no more than 1 % of the run (target 1.01), whatever the network. Beside the
ratio stands what the probe itself counted. Loops of the same length with and without the probe alternate, so that a
busy machine slows all alike; the median of paired ratios is printed with the quartiles. The first measurement, which
infers and checks, is shown apart, in seconds. With ``every=1`` all steps are measured: what one measurement costs.

Peak memory is that of one training step that is measured over one that is not: beyond the weights, what tensors hold.
The twirl is K rotations over K plain forward passes of the same network: below one where stacking pays.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from peak_memory import peak_memory
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

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


SIZES = {"small": (16, 8), "large": (128, 32)}
"""Width of the network, and structures in a batch."""
STEPS = {"small": 400, "large": 100}
"""In a round; with ``every=1`` a tenth."""


class Training:
    """A loop, with the probe or without.

    Args:
        device: where.
        size: of the network.
        how: ``"without"``, ``"hooks"``, ``"step"``, ``"callback"``; with ``"augmented"`` behind it.
        every: cadence.
    """

    def __init__(self, device: str, size: str, how: str, every: Any = "auto") -> None:
        torch.manual_seed(0)
        width, count = SIZES[size]
        self.model, self.how, self.device = Transformer(width).to(device), how, device
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.x, self.y = torch.randn(2, count, 16, 3, device=device)
        self.probe = ep.Probe(self.model, SCHEMA, every=every)
        self.augmentation = ep.augment(self.model, SCHEMA) if how.endswith("augmented") else None
        if how.startswith("hooks"):
            self.probe.attach()

    def loss(self) -> Tensor:
        """Of a batch."""
        return (self.model(self.x)["forces"] - self.y).square().mean()

    def step(self) -> None:
        """One step of training."""
        loss = self.probe.step(self.loss) if self.how.startswith("step") else self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def seconds(self, steps: int) -> float:
        """Of so many steps."""
        return clock(lambda: [self.step() for _ in range(steps)], self.device)


def memory(device: str, how: str) -> float:
    """Peak memory of a step that is measured, in bytes."""
    training = Training(device, "large", how, 1)
    training.step()
    return float(peak_memory(training.step, device))


def callback(size: str, every: Any, steps: int) -> tuple[float, float, float]:
    """Seconds of a Lightning fit without and with the callback, and the share that the probe counted."""
    import pytorch_lightning as pl

    from equiv_probe_lightning import EquivarianceCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Transformer(SIZES[size][0])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return (self.net(batch[0])["forces"] - batch[1]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    data = torch.utils.data.TensorDataset(*torch.randn(2, SIZES[size][1] * 50, 16, 3))
    found = []
    for one in (None, EquivarianceCallback(every=every, network="net", schema=SCHEMA, verbose=False, report=None)):
        torch.manual_seed(0)
        loader = torch.utils.data.DataLoader(data, SIZES[size][1])
        trainer = pl.Trainer(
            max_steps=steps, accelerator="cpu", logger=False, callbacks=[one] if one else [], barebones=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        module = Module()
        found.append(clock(lambda trainer=trainer, module=module, loader=loader: trainer.fit(module, loader), "cpu"))
    assert one is not None
    assert one.probe is not None
    return found[0], found[1], one.probe.schedules.account.spent / one.probe.schedules.account.elapsed


def twirl(device: str) -> float:
    """The full mode's K rotations over K plain forward passes."""
    torch.manual_seed(0)
    model = Transformer().to(device).eval()
    x = torch.randn(32, 16, 3, device=device)
    plan = ep.RotationPlan()
    with torch.no_grad(), ep.Probe(model, SCHEMA, plan, full=1, cost=None):
        model(x), model(x)  # the checks and the floor, with the first two, are no part of the steady cost
        plain = clock(lambda: [model.forward(x) for _ in range(plan.size)], device)
        return clock(lambda: model(x), device) / plain


def clock(run: Callable[[], object], device: str) -> float:
    """Seconds; on a CPU those of this process, which other programs on the machine disturb less."""
    now = time.process_time if device == "cpu" else time.perf_counter
    synchronize(device)
    began = now()
    run()
    synchronize(device)
    return now() - began


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--steps", type=int, help=f"in a round, with every=1 a tenth; default: {STEPS}")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    table = Table("what", "with / without", "quartiles", "counted", "first", title=f"the probe on {args.device}")
    cases = [(how, every) for every in ("auto", 1) for how in ("hooks", "step", "step, augmented")]
    for size in args.size:
        for how, every in cases:
            _row(table, args, size, how, every)
        if args.device == "cpu":
            fits = [callback(size, "auto", args.steps or STEPS[size]) for _ in range(args.rounds)]
            _add(table, f"{size}: callback, auto, first one included", [b / a for a, b, _ in fits], fits[-1][2])
    for name, values in {
        "48 rotations / 48 forward passes": [twirl(args.device) for _ in range(args.rounds)],
        "peak memory, hooks": [memory(args.device, "hooks") / memory(args.device, "without")],
        "peak memory, step": [memory(args.device, "step") / memory(args.device, "without")],
    }.items():
        _add(table, name, values)
    Console().print(table)


def _row(table: Table, args: argparse.Namespace, size: str, how: str, every: Any) -> None:
    steps = (args.steps or STEPS[size]) // (1 if every == "auto" else 10)
    plain = Training(args.device, size, "without, augmented" if how.endswith("augmented") else "without")
    probed = Training(args.device, size, how, every)
    plain.step()
    first = probed.seconds(1)
    probed.seconds(steps)  # until the cadence has settled
    schedules = probed.probe.schedules
    account, ratios = schedules.account, []
    before, began = account.spent, account.elapsed
    for _ in range(args.rounds):
        assert account.began is not None
        paused = time.perf_counter()
        without = plain.seconds(steps)
        account.began += time.perf_counter() - paused  # the other loop's time is none of the run's
        ratios.append(probed.seconds(steps) / without)
    counted = (account.spent - before) / (account.elapsed - began)
    _add(table, f"{size}: {how}, every {every}", ratios, counted, first)


def _add(
    table: Table, name: str, values: list[float], counted: float | None = None, first: float | None = None
) -> None:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    shown = "" if counted is None else f"{100 * counted:.2g} %"
    print(f"{name}: {middle:.3f}, {low:.3f} to {high:.3f} {shown}", file=sys.stderr, flush=True)
    table.add_row(name, f"{middle:.3f}", f"{low:.3f} to {high:.3f}", shown, "" if first is None else f"{first:.2f} s")


if __name__ == "__main__":
    main()
