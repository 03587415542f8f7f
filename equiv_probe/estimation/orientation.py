r"""How a design is to lie in the frame of a model, by what the model breaks there.

Rotations ``q d_i p`` with a fixed ``q`` and a random ``p`` leave of an orbit ``h(g) = Σ_l Σ_mn c^l_mn D^l_mn(g)``

    ``V(q) = Σ_l tr(D^l(q) M^l M^lᵀ D^l(q)ᵀ ρ^l) / (2l+1)``,
    ``M^l = Σ_i w_i D^l(d_i)``,   ``ρ^l_mk = Σ_n c^l_mn c^l_kn``

on average over p. ``ρ^l`` is the model's own: its index m rotates with the frame that the network sees, while n rotates
with the structure. Were it the same in all directions, no q would be better than another. But a network errs along few
directions of its frame, the same ones for all structures and outputs, and a design aliases few at the first degree
above its own: they can be made to miss each other.

``ρ^l`` is measured by a survey, outputs at the rotations of a design of degree t. Its projections onto degree l are
disturbed by what varies at ``l' > t − l``; so they are taken from the lowest degree on, each of what is left by those
below, which are thousands of times as large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import torch

from equiv_probe.rotations.haar import from_quaternions, haar, to_quaternions
from equiv_probe.rotations.wigner import wigner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from equiv_probe.rotations.plan import RotationPlan

HIGHEST: Final = 5
"""Degree to which a survey tells: of 240 rotations, of a spectrum that falls tenfold from degree to degree."""
SURVEY: Final = "design-8"
ORIENTATIONS: Final = 8000
"""How many are compared: any other has one of them within some 7°, a tenth of a period of the highest degree."""
NEARBY: Final = 500
REACHES: Final = (0.08, 0.02, 0.005)
"""Radians: the best is moved to the best of so many about it, thrice."""


@dataclass(frozen=True)
class Survey:
    """What one output varies by in the frame of the model.

    Attributes:
        power: ``ρ^l`` for l = 1 … ``HIGHEST``, ``(2l+1, 2l+1)`` each, in the output's units squared, means over
            components and structures.
        orbit: what one rotation is off by, in its units.
        rounding: what the model's precision makes of it.
    """

    power: tuple[Tensor, ...]
    orbit: float
    rounding: float


def frame_power(values: Tensor, rotations: Tensor, weights: Tensor, highest: int = HIGHEST) -> tuple[Tensor, ...]:
    """``ρ^l`` for l = 1 … ``highest`` of one structure.

    Args:
        values: outputs at rotated copies, rotated back, ``(K, ...)``.
        rotations: ``(K, 3, 3)``, of a design; improper ones count as their proper part, for an average over O(3).
        weights: ``(K,)``.
        highest: degree that the design can tell of.
    """
    left = values.double().flatten(1) if values.ndim > 1 else values.double()[:, None]
    left = left - weights @ left
    proper = rotations * torch.linalg.det(rotations)[:, None, None]
    found = []
    for degree in range(1, highest + 1):
        matrices = wigner(degree, proper)
        parts = (2 * degree + 1) * torch.einsum("k,kc,kmn->cmn", weights, left, matrices)
        left = left - torch.einsum("cmn,kmn->kc", parts, matrices)
        found.append(torch.einsum("cmn,cln->ml", parts, parts) / len(parts))
    return tuple(found)


def kept(plan: RotationPlan, power: Sequence[Tensor], orientations: Tensor) -> Tensor:
    """``V(q)``, the variance of the average over one replicate, for orientations ``(Q, 3, 3)``: ``(Q,)``."""
    design = replace(plan, replicates=1, improper=False, orientation=(1.0, 0.0, 0.0, 0.0))
    elements = design.rotations()[0]  # times a p, which does not count
    total = torch.zeros(len(orientations), dtype=torch.float64)
    for degree, own in list(enumerate(power, 1))[plan.degree :]:  # below, nothing is kept
        moment = torch.einsum("n,nij->ij", design.weights, wigner(degree, elements))
        aliased = wigner(degree, orientations) @ moment
        total += torch.einsum("qmi,ml,qli->q", aliased, own, aliased) / (2 * degree + 1)
    return total.clamp_min(0)


def oriented(plan: RotationPlan, surveys: Mapping[str, Survey]) -> tuple[RotationPlan, dict[str, float]]:
    """The plan as it lies best of many orientations, the axes' own among them, and what it is expected to leave.

    Each output counts by what is left of it over what is left on average over orientations. What is expected to be left
    is of one replicate, in the units of the output, to the degree that a survey tells of: at least so much.
    """
    if plan.degree >= HIGHEST:
        return plan, {}

    def left_at(orientations: Tensor) -> dict[str, Tensor]:
        return {name: kept(plan, survey.power, orientations) for name, survey in surveys.items()}

    candidates = _candidates()
    left = left_at(candidates)
    at_random = {name: scale for name, of in left.items() if (scale := float(of.mean())) > 0}

    def best() -> int:
        scores = [left[name] / scale for name, scale in at_random.items()]
        return int(torch.stack(scores).sum(0).argmin()) if scores else 0

    for reach in REACHES:
        around = candidates[best()]
        candidates = torch.cat([around[None], _within(reach) @ around])
        left = left_at(candidates)
    chosen = best()
    w, x, y, z = to_quaternions(candidates[chosen]).tolist()
    return replace(plan, orientation=(w, x, y, z)), {name: math.sqrt(float(of[chosen])) for name, of in left.items()}


@lru_cache(maxsize=1)
def _candidates() -> Tensor:
    """Orientations ``(Q, 3, 3)``, the same ones always."""
    drawn = haar(ORIENTATIONS - 1, torch.Generator().manual_seed(0))
    return torch.cat([torch.eye(3, dtype=torch.float64)[None], drawn])


@lru_cache(maxsize=8)
def _within(reach: float) -> Tensor:
    """Small rotations ``(NEARBY, 3, 3)`` by angles of about a reach in radians, the same ones always."""
    halves = torch.randn(NEARBY, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * reach / 2
    return from_quaternions(torch.cat([torch.ones(NEARBY, 1, dtype=torch.float64), halves], -1))
