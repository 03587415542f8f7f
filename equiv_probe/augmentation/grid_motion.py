"""How an augmentation moved a voxel grid.

Rotations that take voxels to voxels are recognised exactly. Of rotations that interpolate the vectors

    d_i = Σ_p w_i(|p|) f(p) p,        p about the middle of the box, w_i zero outside of the ball that it holds,

rotate as the field does, ``d_i ↦ g d_i``, to what interpolation leaves of them: g is found from four of them by
orthogonal Procrustes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.grids import Grid, grid
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from torch import Tensor

_RADII = (0.35, 0.55, 0.8)


@dataclass(frozen=True)
class Motion:
    """How one draw moved a grid: the rotation ``(3, 3)``, whether to the last voxel, and what it leaves unexplained."""

    rotation: Tensor
    exact: bool
    misfit: float


def single(value: Tensor, rep: Grid) -> Tensor:
    """One structure's grid with an axis of channels, ``(C, D, H, W)`` float64; of a batch the first."""
    value = torch.as_tensor(value).detach().cpu().double()
    value = value.as_subclass(torch.Tensor)
    if not rep.channel_axis:
        value = value.unsqueeze(-4)
    return value.reshape(-1, *value.shape[-4:])[0]


def lengths(value: Tensor, rep: Grid) -> Tensor:
    """What of a grid only moves: scalars, and the lengths of vectors, ``(C', D, H, W)``."""
    parts, start = [], 0
    for count, field in rep.fields:
        size = math.prod(field.event_shape)
        part = value[start : start + count * size].reshape(count, size, *value.shape[-3:])
        parts.append(part[:, 0] if size == 1 else part.norm(dim=1))
        start += count * size
    return torch.cat(parts) if parts else value


def rotations_of_box(rep: Grid, shape: tuple[int, ...]) -> Tensor:
    """The rotations, proper and improper, that keep the box."""
    both = RotationPlan("cube", improper=True).rotations()[0]
    plain = grid(axes=rep.axes, spacing=rep.spacing)
    kept = []
    for g in both:
        try:
            if plain.rotate(torch.zeros(1, *shape), g).shape[-3:] == shape:
                kept.append(g)
        except EquivProbeError:  # axes of different spacing
            continue
    return torch.stack(kept)


class Reference:
    """A grid before any draw, with what is needed to tell how it moved."""

    def __init__(self, before: Tensor, rep: Grid) -> None:
        self.rep, self.plain = rep, grid(axes=rep.axes, spacing=rep.spacing)
        self.field = lengths(single(before, rep), rep)
        self.vectors, self.group = vectors(self.field, rep), rotations_of_box(rep, tuple(self.field.shape[-3:]))

    def require_generic(self, name: str) -> None:
        """Raise EquivProbeError for a grid that other rotations than none leave as it is."""
        alike = sum(torch.equal(self.plain.rotate(self.field, g), self.field) for g in self.group)
        if alike > 1:
            raise EquivProbeError(
                f"the grid {name!r}, which {alike - 1} rotations or reflections of its box leave as it is",
                "a grid without symmetry, whose rotation can be told",
                "another sample, such as sample=dataset[1]",
            )

    def motion(self, after: Tensor) -> Motion:
        """The rotation that took the field to another: one of the box if that is exact, or the nearest to the moments.

        It is improper only where that explains the moments far better.
        """
        new = lengths(single(after, self.rep), self.rep)
        x, y = self.vectors, vectors(new, self.rep)
        likely = (torch.einsum("gij,nj->gni", self.group, x) - y).flatten(1).norm(dim=1).argsort()[:2]
        for g in self.group[likely]:
            if float((self.plain.rotate(self.field, g) - new).abs().max()) <= 1e-5 * float(self.field.abs().max()):
                return Motion(g, True, 0.0)
        u, _, vh = torch.linalg.svd(y.mT @ x)
        sign = float(torch.linalg.det(u @ vh).sign())
        tries = [u @ torch.diag(torch.tensor([1.0, 1.0, last]).double()) @ vh for last in (sign, -sign)]
        misfits = [float((y - x @ g.mT).norm() / y.norm().clamp_min(1e-300)) for g in tries]
        best = 1 if misfits[1] < 0.5 * misfits[0] else 0  # the vectors of one channel lie nearly in a plane
        return Motion(tries[best], False, misfits[best])


def vectors(field: Tensor, rep: Grid) -> Tensor:
    """The vectors of the module's docstring, of each channel, and ``Q d`` of their second moments, ``(4 C, 3)``."""
    shape = field.shape[-3:]
    p = rep.coordinates(shape)
    r = p.norm(dim=-1) / min(rep.half_lengths(shape))
    found = []
    for radius in _RADII:
        weight = torch.where(r < 1, torch.exp(-((r / radius) ** 2)) * (1 - r**2), 0.0)
        found.append(torch.einsum("cijk,ijk,ijka->ca", field, weight, p))
    weight = torch.where(r < 1, 1 - r**2, 0.0)
    second = torch.einsum("cijk,ijk,ijka,ijkb->cab", field, weight, p, p)
    found.append(torch.einsum("cab,cb->ca", second, found[1]))
    return torch.cat([one / one.norm(dim=1, keepdim=True).mean().clamp_min(1e-300) for one in found])
