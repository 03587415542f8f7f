"""Which rotation took one set of points to another: orthogonal Procrustes, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Alignment:
    """The rigid motion ``x ↦ g x + t`` nearest to what happened, in the squared-error sense, and how near that is.

    Attributes:
        rotation: g, ``(3, 3)`` float64, of either determinant.
        shift: t, ``(3,)``, in the unit of the points.
        deviation: root-mean-square distance from the moved points, in the unit of the points.
        misfit: the same if the points may change their size too, which tells nothing about the rotation.
        stretches: singular values of the best linear map, ``(3,)``, falling; ones for a rigid motion.
        nonlinear: root-mean-square distance that the best linear map leaves.
    """

    rotation: Tensor
    shift: Tensor
    deviation: float
    misfit: float
    stretches: Tensor
    nonlinear: float


def align(before: Tensor, after: Tensor, *, proper: bool = False) -> Alignment:
    """Find ``g`` in O(3) and ``t`` that minimise ``Σ_i ‖g x_i + t − x'_i‖²``.

    With the singular value decomposition ``Σ_i (x'_i − c')(x_i − c)ᵀ = U S Vᵀ`` about the centroids it is ``g = U Vᵀ``.

    Args:
        before: points x, ``(N, 3)``.
        after: the same points afterwards, ``(N, 3)``.
        proper: ask for det +1, for points in a plane, which a reflection in it leaves where they are.

    Returns:
        The motion, in float64 on the CPU.

    Source: Schönemann, Psychometrika 31 (1966) 1; Kabsch, Acta Cryst. A 32 (1976) 922; Umeyama, IEEE Trans. Pattern
    Anal. Mach. Intell. 13 (1991) 376.
    """
    x, y = before.detach().cpu().double(), after.detach().cpu().double()
    if not len(x):
        return Alignment(torch.eye(3).double(), torch.zeros(3).double(), 0.0, 0.0, torch.ones(3).double(), 0.0)
    c, d = x.mean(0), y.mean(0)
    x, y = x - c, y - d
    u, _, vh = torch.linalg.svd(y.mT @ x)
    if proper and torch.linalg.det(u @ vh) < 0:
        u = u * u.new_tensor([1.0, 1.0, -1.0])
    g = u @ vh
    rotated = x @ g.mT
    scale = (rotated * y).sum() / x.square().sum().clamp_min(1e-300)
    linear = torch.linalg.lstsq(x, y, driver="gelsd").solution
    return Alignment(
        g, d - g @ c, _rms(rotated - y), _rms(scale * rotated - y), torch.linalg.svdvals(linear), _rms(x @ linear - y)
    )


def extents(points: Tensor) -> Tensor:
    """Root-mean-square extent of points ``(N, 3)`` along their principal axes, ``(3,)`` falling, in their unit."""
    x = points.detach().cpu().double()
    # Three rows of zeros: three singular values, however few points there are.
    x = torch.cat([x - x.sum(0) / max(1, len(x)), x.new_zeros(3, 3)])
    values: Tensor = torch.linalg.svdvals(x) / max(1, len(points)) ** 0.5
    return values


def _rms(differences: Tensor) -> float:
    return float(differences.square().sum(-1).mean().sqrt())
