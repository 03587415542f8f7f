"""Networks of positions and a time whose broken symmetry is known in closed form at every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

MATRIX = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
TIMED = ep.Schema({"x_t": ep.vector}, {"v": ep.vector})
"""Vectors about the origin, as in a flow whose noise is centred."""
SCALE = 0.5
"""Labels are ``SCALE x``."""


class Timed(nn.Module):
    """``v(x, t) = (1 + t) A x``, with a factor that can be trained."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.matrix = nn.Parameter(MATRIX.to(dtype, copy=True))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        times = t.reshape(-1, *(1,) * (x_t.ndim - 1)) if t.ndim else t
        return (1 + times).to(x_t) * (x_t @ self.matrix.T)


def exact(low: float, high: float, weight: Callable[[Tensor], Tensor] = torch.ones_like) -> tuple[float, float]:
    """``L_total`` and ``L_equiv`` of :class:`Timed` per component in a bin, for x ~ N(0, 1) and uniform times.

    With a = 1 + t and labels s x: ``L_equiv = a² (‖A‖²/3 − (tr A/3)²)``, ``L_mean = (a tr A/3 − s)²``. The integral
    over the bin is a midpoint rule, exact to 1e-6 for the weights of these tests.
    """
    edges = torch.linspace(low, high, 2001, dtype=torch.float64)
    t = (edges[1:] + edges[:-1]) / 2
    a, trace = 1 + t, float(MATRIX.trace()) / 3
    equiv = a**2 * (float(MATRIX.square().sum()) / 3 - trace**2)
    total = equiv + (a * trace - SCALE) ** 2
    return float((weight(t) * total).mean()), float((weight(t) * equiv).mean())


def drawn(count: int = 64, atoms: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Noisy structures and their times, from the global random state."""
    return torch.randn(count, atoms, 3, dtype=dtype), torch.rand(count, dtype=dtype)
