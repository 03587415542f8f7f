"""Trains one network after another on two processes, and writes what came of it: started by a test on each rank."""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

import equiv_probe as ep
from equiv_probe.probe import agreement

SCHEMA = ep.Schema(inputs={"input": ep.vector}, outputs={"0": ep.vector})
STEPS = 12
CASES = [
    *((kind, how) for kind in ("ddp", "fsdp2", "fsdp1") for how in ("without", "hooks", "step")),
    ("ddp", "auto"),
    *(("ddp", loss) for loss in ("capped", "adaptive")),
    *((kind, "rank 0") for kind in ("ddp", "fsdp2", "fsdp1")),  # the last: processes count what they agree on
]
"""Kinds of parallel training, and how each is probed."""


def wrapped(kind: str) -> nn.Module:
    """One network, as each kind of parallel training has it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(5), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 3))
    if kind == "fsdp2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        fully_shard(net[0], mesh=mesh)
        fully_shard(net, mesh=mesh)
        return net
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(net, use_orig_params=True, device_id=torch.device("cpu"))
    return nn.parallel.DistributedDataParallel(net)


def train(kind: str, how: str, rank: int) -> dict[str, Any]:
    """Losses of training, and what was measured."""
    model = wrapped(kind)
    torch.manual_seed(rank)
    loss_of = {"capped": capped, "adaptive": adaptive}.get(how, torch.mean)
    every: Any = "auto" if how == "auto" else 2
    probe = ep.Probe(model, SCHEMA, every=every, full=2, cost=1.0 if how == "auto" else 0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if how == "hooks" or (how == "rank 0" and rank == 0):
        probe.attach()
    losses, due, error = [], [], ""
    for _ in range(400 if how == "auto" else STEPS):
        x = torch.randn(8, 5, 3)
        step = lambda x=x: loss_of((model(x) + x).square())  # noqa: E731
        try:
            loss = probe.step(step) if how in {"step", "auto", "capped", "adaptive"} else step()
        except ep.EquivProbeError as refused:  # before anything was sent to the other process, which waits
            error = str(refused)
            probe.remove()
            loss = step()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        due.append(probe.schedules["step", "train"].was_due)
        if due[-1] and rank == 1:  # this one's measurements are slow, as far as it knows
            probe.schedules["step", "train"].spent(0.02)
    if how == "hooks":
        evaluate(model, probe, rank)
    probe.remove()
    found = {name: value for name, value in probe.compute(window=False).items() if name.endswith("L_equiv")}
    evaluated = probe.schedules["call", "val"].measured
    failed = [one.name for one in probe.controls if one.failed]
    return {"losses": losses, "due": due, "found": found, "evaluated": evaluated, "error": error, "failed": failed}


def capped(squares: torch.Tensor) -> torch.Tensor:
    """A loss at its cap, which is a soft one: it hardly changes, though not to the last bit."""
    return 1 + 1e-4 * squares.mean((1, 2)).tanh().mean()


def adaptive(squares: torch.Tensor) -> torch.Tensor:
    """Divided by itself, detached."""
    return squares.mean() / (squares.detach().mean() + 1e-3)


def evaluate(model: nn.Module, probe: ep.Probe, rank: int) -> None:
    """Many calls in evaluation, by processes whose clocks tell them different things."""
    model.eval()
    if rank == 1:
        probe.schedules["call", "val"].began -= 3600
    for _ in range(20):
        with torch.no_grad():
            model(torch.randn(8, 5, 3))
        time.sleep(0.001)


def main(rank: int, folder: Path) -> None:
    """Run on one rank; a process that waits for the other in vain gives up."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = {}
    for kind, how in CASES:
        agreement.PATIENCE = 2.0 if how == "rank 0" else 60.0
        torch.distributed.barrier()
        found[f"{kind}, {how}"] = train(kind, how, rank)
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
