"""Samplers for tests: Langevin dynamics, and flows of velocity networks, with and without a preferred axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.rotations.drawing import draw

if TYPE_CHECKING:
    from collections.abc import Callable

HAAR4 = ep.RotationPlan("haar", replicates=4)


def rotations(plan: ep.RotationPlan, samples: int) -> Tensor:
    """Those of an audit, ``(K, U, 3, 3)``."""
    return draw(plan, plan.generator(), samples).flatten(0, 1)


def langevin(noise: Tensor, stiffness: float = 1.0, steps: int = 12) -> Tensor:
    """Overdamped dynamics in a well, equivariant if ``stiffness`` (along z) is one."""
    well = torch.tensor([1.0, 1.0, stiffness], dtype=noise.dtype)
    x = noise
    for _ in range(steps):
        x = x - 0.1 * x * well + 0.3 * torch.randn_like(x)
    return x


class Egnn(nn.Module):
    """Velocities from messages along differences, weighted by invariants; ``axis`` prefers a direction."""

    def __init__(self, axis: float = 0.0) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()
        self.axis = axis

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``(B, N, 3)`` and ``(B,)`` to ``(B, N, 3)``."""
        away = x[:, :, None] - x[:, None]
        far = away.square().sum(-1, keepdim=True)
        time = t[:, None, None, None].expand_as(far)
        v = (away * torch.tanh(self.weigh(torch.cat([far, time], -1)))).mean(2)
        return v + self.axis * x[..., :1] * torch.tensor([0.0, 0.0, 1.0], dtype=x.dtype)


def euler(network: nn.Module, steps: int = 10) -> Callable[[Tensor], Tensor]:
    """A flow's sampler."""

    def flow(noise: Tensor) -> Tensor:
        x = noise
        for k in range(steps):
            x = x + network(x, x.new_full((len(x),), k / steps)) / steps
        return x

    return flow


def quiet(sampler: Any, start: Any, /, **options: Any) -> ep.SamplerAudit:
    """An audit in float64 without a progress bar."""
    return ep.audit_sampler(sampler, start, **{"progress": False, "dtype": torch.float64, **options})
