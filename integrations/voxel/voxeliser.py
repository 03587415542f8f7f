"""Atoms to densities on a voxel grid, differentiable in the atoms.

    density[b, c, x, y, z] = Σ_n w[b, n, c] exp(−|r_xyz − pos[b, n]|² / (2 s²)),   s = width · radius[b, n]

The Gaussian factorises over the axes. Without a cutoff the sum over atoms is one matrix product, exact; with one, every
atom adds a small box of voxels, which is faster where there are many atoms and channels.

Two forms that are in use differ only in `width`. VoxMol (Pinheiro et al., NeurIPS 2023, arXiv:2306.07473), after PyUUL
(Orlando et al., Bioinformatics 38 (2022) 1425), has exp(−(d / 0.93 r)²), width 0.93/√2, and joins the atoms of a
channel to an occupancy 1 − Π(1 − v), where we add them: the same until atoms of one channel overlap. libmolgrid
(Sunseri & Koes, J. Chem. Inf. Model. 60 (2020) 1079) has exp(−2 d²/r²), width 1/2, and goes on quadratically from r to
1.5 r, where ours stays Gaussian.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

VOXMOL, LIBMOLGRID = 0.93 / math.sqrt(2), 0.5
"""Standard deviation of the Gaussian over the atom's radius."""


class Voxeliser(nn.Module):
    """Gaussian densities of typed atoms in a cube about the origin, about a given centre, or about each centroid.

    Args:
        channels: C, how many densities.
        size: voxels along each edge; samples lie in their middles, so that the box is `size · resolution` wide.
        resolution: edge of a voxel, Å.
        width: standard deviation of the Gaussian over the radius.
        cutoff: distance along each axis, in standard deviations, beyond which an atom adds nothing; None for the whole
            box. At 4 what is left out is below 3.4e-4 of the atom's peak. A cube, so the 24 rotations keep it.
        largest_radius: of any atom, Å; with a cutoff it sets how many voxels are looked at, and a larger atom is cut
            off where one of this radius would be.
        centred: move the centroid of each structure's atoms to the middle of the box.
    """

    def __init__(
        self,
        channels: int,
        size: int = 24,
        resolution: float = 0.5,
        *,
        width: float = VOXMOL,
        cutoff: float | None = None,
        largest_radius: float = 2.0,
        centred: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.resolution = channels, size, resolution
        self.width, self.cutoff, self.largest_radius, self.centred = width, cutoff, largest_radius, centred
        middle = (size - 1) / 2
        self.register_buffer("steps", torch.arange(size, dtype=torch.float64) - middle, persistent=False)

    @property
    def half(self) -> float:
        """Half the edge of the box, Å."""
        return self.size * self.resolution / 2

    def coordinates(self) -> Tensor:
        """Middles of the voxels about the middle of the box, `(D, H, W, 3)` float64, Å; D is x, H y, W z."""
        axis = self.steps.double() * self.resolution
        return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)

    def forward(
        self,
        pos: Tensor,
        channel: Tensor,
        radius: Tensor,
        mask: Tensor | None = None,
        center: Tensor | None = None,
    ) -> Tensor:
        """Densities `(B, C, D, H, W)`, computed in float32 at least, under autocast too.

        Args:
            pos: `(B, N, 3)`, Å.
            channel: `(B, N)` whole numbers below C, or weights `(B, N, C)`.
            radius: `(B, N)`, Å.
            mask: `(B, N)`, true where there is an atom.
            center: `(B, 3)` or `(3,)`, what becomes the middle of the box; None is the origin, or the centroid.
        """
        with torch.autocast(pos.device.type, enabled=False):
            dtype = torch.promote_types(pos.dtype, torch.float32)
            pos, radius = pos.to(dtype), radius.to(dtype)
            held = pos.new_ones(pos.shape[:2]) if mask is None else mask.to(dtype)
            if center is None and self.centred:
                center = (pos * held[..., None]).sum(1) / held.sum(1, keepdim=True).clamp_min(1)
            if center is not None:
                pos = pos - center.to(dtype).reshape(-1, 1, 3)
            spread = self.width * torch.where(held > 0, radius, torch.ones_like(radius))[..., None]
            if self.cutoff is None:
                return self._whole(pos, self._weights(channel, dtype) * held[..., None], spread)
            if channel.is_floating_point():
                raise ValueError("a cutoff needs whole-number channels (B, N): weights (B, N, C) go without a cutoff")
            return self._near(pos, channel, held, spread)

    def _weights(self, channel: Tensor, dtype: torch.dtype) -> Tensor:
        if channel.is_floating_point():
            return channel.to(dtype)
        # Not one_hot, which would look at the largest value and so wait for the device.
        return (channel[..., None] == torch.arange(self.channels, device=channel.device)).to(dtype)

    def _whole(self, pos: Tensor, weights: Tensor, spread: Tensor) -> Tensor:
        """Every atom at every voxel: `(C·D) × N` times `N × (H·W)`."""
        away = self.steps.to(pos) * self.resolution - pos[..., None]
        x, y, z = torch.exp(-0.5 * (away / spread[..., None]).square()).unbind(2)
        left = torch.einsum("bnc,bnx->bcxn", weights, x).flatten(1, 2)
        right = torch.einsum("bny,bnz->bnyz", y, z).flatten(2)
        return (left @ right).reshape(len(pos), self.channels, self.size, self.size, self.size)

    def _near(self, pos: Tensor, channel: Tensor, held: Tensor, spread: Tensor) -> Tensor:
        """Every atom at the voxels around it."""
        assert self.cutoff is not None
        n, count = self.size, math.floor(2 * self.cutoff * self.width * self.largest_radius / self.resolution) + 1
        # Clamped, so that an atom far outside cannot overflow; it is outside all the same.
        reach = (self.cutoff * spread).clamp_max(self.cutoff * self.width * self.largest_radius)
        steps = self.steps.to(pos)
        first = torch.ceil(((pos - reach).detach() / self.resolution - steps[0]).clamp(-2 * count, 2 * n)).long()
        index = first[..., None] + torch.arange(count, device=pos.device)  # (B, N, 3, k)
        away = (index.to(pos) + steps[0]) * self.resolution - pos[..., None]
        inside = (index >= 0) & (index < n) & (away.abs() <= reach[..., None])
        factor = torch.exp(-0.5 * (away / spread[..., None]).square()) * inside
        x, y, z = factor.unbind(2)
        values = (held[..., None] * x)[..., :, None, None] * y[..., None, :, None] * z[..., None, None, :]
        i, j, k = index.clamp(0, n - 1).unbind(2)
        batch = torch.arange(len(pos), device=pos.device)[:, None]
        place = ((batch * self.channels + channel.long()) * n)[..., None] + i
        place = (place[..., :, None, None] * n + j[..., None, :, None]) * n + k[..., None, None, :]
        flat = values.new_zeros(len(pos) * self.channels * n**3).index_add(0, place.flatten(), values.flatten())
        return flat.reshape(len(pos), self.channels, n, n, n)


def atom_gradients(score: Tensor, pos: Tensor, *, create_graph: bool = False) -> Tensor:
    """Slope of each structure's score along its own atoms: vectors, whatever grid lies between.

    Args:
        score: `(B,)`, each computed from its own structure.
        pos: `(B, N, 3)` with `requires_grad`, Å.
        create_graph: for a loss on the gradients.

    Returns:
        `∂score / ∂pos`, `(B, N, 3)`, the score's unit per Å; zero for atoms that are masked or outside the box.
    """
    return torch.autograd.grad(score.sum(), pos, create_graph=create_graph)[0]
