"""Trains on two processes, and writes what came of it: started by a test, once for each rank."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import equiv_probe as ep
from equiv_probe.probe import agreement

SCHEMA = ep.Schema(inputs={"input": ep.vector}, outputs={"0": ep.vector})
STEPS = 12


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
    every: Any = "auto" if how == "auto" else 2
    probe = ep.Probe(model, SCHEMA, every=every, full=2, cost=1.0 if how == "auto" else 0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if how == "hooks" or (how == "rank 0" and rank == 0):
        probe.attach()
    losses, due = [], []
    for _ in range(400 if how == "auto" else STEPS):
        x = torch.randn(8, 5, 3)
        step = lambda x=x: (model(x) + x).square().mean()  # noqa: E731
        loss = probe.step(step) if how in {"step", "auto"} else step()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        due.append(probe.schedules["step", "train"].was_due)
        if due[-1] and rank == 1:  # this one's measurements are slow, as far as it knows
            probe.schedules["step", "train"].spent(0.02)
    if how == "hooks":
        evaluate(model, probe, rank)
    found = {name: value for name, value in probe.compute(window=False).items() if name.endswith("L_equiv")}
    return {"losses": losses, "due": due, "found": found, "evaluated": probe.schedules["call", "val"].measured}


def evaluate(model: nn.Module, probe: ep.Probe, rank: int) -> None:
    """Many calls in evaluation, by processes whose clocks tell them different things."""
    model.eval()
    if rank == 1:
        probe.schedules["call", "val"].began -= 3600
    for _ in range(20):
        with torch.no_grad():
            model(torch.randn(8, 5, 3))
        time.sleep(0.001)


def main(kind: str, how: str, rank: int, folder: Path) -> None:
    """Run on one rank."""
    agreement.PATIENCE = 3.0
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        found = train(kind, how, rank)
    except ep.EquivProbeError as error:
        found = {"error": str(error)}
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
