"""torchcfm's conditional flow matching, in the loop of its own examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep

from .brute_force import agree, bits, haar, measured

if TYPE_CHECKING:
    from pathlib import Path

cfm = pytest.importorskip(
    "torchcfm.conditional_flow_matching", reason="torchcfm is not installed: make hosts HOST=torchcfm"
)
io = pytest.importorskip("ase.io", reason="ASE is not installed")


class Flow(nn.Module):
    """A velocity for each atom; not equivariant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(28, 64), nn.SELU(), nn.Linear(64, 27))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.net(torch.cat([x.flatten(1), t[:, None]], -1)).view_as(x)


def test_exact_optimal_transport(data: Path) -> None:
    frames = io.read(data / "ethanol_rmd17" / "train.xyz", ":64")
    x1 = torch.stack([torch.tensor(a.positions - a.positions.mean(0)) for a in frames]).float()
    matcher = cfm.ExactOptimalTransportConditionalFlowMatcher(sigma=0.1)

    def trained(probed: bool) -> tuple[Any, Any]:
        flow = Flow()
        optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
        probe = ep.Probe(flow, every=1, center="origin")
        torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002 - the plan of transport is drawn by NumPy
        for _ in range(6):

            def step() -> Tensor:
                t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
                return (flow(t, xt) - ut).square().mean()

            loss = probe.step(step) if probed else step()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return flow, probe

    plain, (flow, probe) = trained(probed=False)[0], trained(probed=True)
    assert bits(plain) == bits(flow)
    assert measured(probe, "loss") > 0
    torch.manual_seed(2)
    t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)

    def again() -> Tensor:
        return (flow(t, xt) - ut).square().mean()

    replay = ep.Probe(flow, center="origin").replay(again, ep.RotationPlan("haar", 60))
    with torch.no_grad():
        orbit = torch.stack([flow(t, xt @ g.T) @ g for g in haar(dtype=torch.float32)]).double()
    agree(replay.equiv, float(orbit.var(0).mean()))
    agree(replay.total, float((orbit - ut).square().mean()), rel=0.1)
