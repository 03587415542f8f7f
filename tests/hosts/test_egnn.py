"""EGNN's charged particles: its simulation, its ``GNN`` on ``cat([loc, vel])`` and its ``EGNN_vel``, its loop."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import equiv_probe as ep

from .brute_force import agree, bits, haar, measured

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = os.environ.get("EQUIV_PROBE_SOURCE", "")
if not os.path.isdir(f"{SOURCE}/n_body_system"):  # noqa: PTH112
    pytest.skip("the sources of vgsatorras/egnn are not there: make hosts HOST=egnn", allow_module_level=True)
BALLS = 5


@pytest.fixture(scope="module")
def egnn() -> Any:
    sys.path[:0] = [SOURCE, f"{SOURCE}/n_body_system/dataset"]
    from n_body_system import model

    return model


@pytest.fixture(scope="module")
def particles(egnn: Any) -> dict[str, Tensor]:
    """Forty systems of five charged particles: places, velocities, edges and where they go."""
    from synthetic_sim import ChargedParticlesSim

    np.random.seed(0)  # noqa: NPY002 - the simulation draws from it
    simulation = ChargedParticlesSim(noise_var=0.0, n_balls=BALLS, vel_norm=0.5)
    runs = [simulation.sample_trajectory(T=1000, sample_freq=100) for _ in range(40)]
    loc = torch.tensor(np.stack([one[0][[4, 8]] for one in runs])).float().transpose(2, 3)
    vel = torch.tensor(np.stack([one[1][4] for one in runs])).float().transpose(1, 2)
    charge = torch.tensor(np.stack([one[2] for one in runs])).float()
    pairs = [(i, j) for i in range(BALLS) for j in range(BALLS) if i != j]
    rows, columns = (torch.cat([torch.tensor([p[k] for p in pairs]) + BALLS * b for b in range(40)]) for k in (0, 1))
    attributes = torch.stack([charge[:, i, j] for i, j in pairs], 1).reshape(-1, 1)
    return {
        "loc": loc[:, 0].reshape(-1, 3),
        "vel": vel.reshape(-1, 3),
        "end": loc[:, 1].reshape(-1, 3),
        "rows": rows,
        "columns": columns,
        "charges": attributes,
    }


def called(name: str, net: Any, loc: Tensor, vel: Tensor, given: dict[str, Tensor]) -> Tensor:
    """As main_nbody.py calls it."""
    edges, attributes = [given["rows"], given["columns"]], given["charges"]
    if name == "GNN":
        return net(torch.cat([loc, vel], 1), edges, attributes)
    distance = ((loc[edges[0]] - loc[edges[1]]) ** 2).sum(1, keepdim=True)
    return net(vel.norm(dim=1, keepdim=True), loc.detach().clone(), edges, vel, torch.cat([attributes, distance], 1))


CONCAT = ep.concat(ep.point, ep.vector)
SCHEMAS = {
    "GNN": ep.Schema({"nodes": CONCAT}, {"0": ep.point}),
    "EGNN_vel": ep.Schema({"x": ep.point, "vel": ep.vector}, {"0": ep.point}),
}


@pytest.mark.parametrize("name", ["GNN", "EGNN_vel"])
def test_n_body(name: str, egnn: Any, particles: dict[str, Tensor]) -> None:
    given = particles

    def trained(probed: bool) -> tuple[Any, ep.Probe]:
        torch.manual_seed(0)
        net = egnn.GNN(6, 16, n_layers=2) if name == "GNN" else egnn.EGNN_vel(1, 2, 16, n_layers=2)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        probe = ep.Probe(net, SCHEMAS[name], every=1, center="origin")
        for _ in range(5):

            def step() -> Tensor:
                return torch.nn.functional.mse_loss(called(name, net, given["loc"], given["vel"], given), given["end"])

            loss = probe.step(step) if probed else step()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return net, probe

    plain, (net, probe) = trained(probed=False)[0], trained(probed=True)
    assert bits(plain) == bits(net)
    assert (
        measured(probe, "loss") == pytest.approx(0.0, abs=1e-8) if name == "EGNN_vel" else measured(probe, "loss") > 0
    )

    def step() -> Tensor:
        return torch.nn.functional.mse_loss(called(name, net, given["loc"], given["vel"], given), given["end"])

    replay = ep.Probe(net, SCHEMAS[name], center="origin").replay(step, ep.RotationPlan("haar", 60))
    with torch.no_grad():
        orbit = [
            called(name, net, given["loc"] @ g.T, given["vel"] @ g.T, given) @ g for g in haar(dtype=torch.float32)
        ]
    expected = float(torch.stack(orbit).double().var(0).mean())
    agree(replay.equiv, expected, smallest=1e-8)
