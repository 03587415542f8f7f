"""Protein pockets with their ligands moved at random, and how far each ligand was moved: labels made from the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from equiv_probe.rotations.haar import from_quaternions

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = 28
"""libmolgrid's default types: fourteen of the receptor, fourteen of the ligand."""
POCKETS = ("1a46", "6ahs", "6o5u", "6w70")


@dataclass(frozen=True)
class Pockets:
    """Complexes about the middle of the box, padded: `(P, N, ...)`; the crystal's own orientation is kept.

    Attributes:
        pos: `(P, N, 3)`, Å, about the centre of the crystal ligand.
        channel: `(P, N)`.
        radius: `(P, N)`, Å.
        mask: `(P, N)`, true where there is an atom.
        ligand: `(P, N)`, true for atoms of the ligand.
    """

    pos: Tensor
    channel: Tensor
    radius: Tensor
    mask: Tensor
    ligand: Tensor

    def to(self, device: torch.device) -> Pockets:
        """The same on a device."""
        return Pockets(*(value.to(device) for value in vars(self).values()))


def load(folder: Path, names: tuple[str, ...] = POCKETS, reach: float = 24.0) -> Pockets:
    """Read pockets; receptor atoms beyond `reach` Å of the centre are left out.

    One of the files, 6w70, holds its ligand a second time, as atoms of the receptor: receptor atoms within 1 Å of an
    atom of the crystal ligand, where no other atom can be, are left out everywhere.
    """
    rows: list[list[Tensor]] = []
    for name in names:
        stored = np.load(folder / f"{name}.npz")
        pos = stored["xyz"].astype(float) - stored["center"]
        ligand = stored["is_ligand"]
        nearest = np.linalg.norm(pos[:, None] - pos[ligand][None], axis=-1).min(1)
        kept = ligand | ((nearest > 1.0) & (np.linalg.norm(pos, axis=1) <= reach))
        columns = (pos, stored["channel"].astype(int), stored["radius"].astype(float), np.ones(len(pos), bool), ligand)
        rows.append([torch.from_numpy(np.ascontiguousarray(column[kept])) for column in columns])
    padded = (torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True) for column in zip(*rows, strict=True))
    pos, channel, radius, mask, ligand = padded
    return Pockets(pos.float(), channel, radius.float(), mask, ligand)


@dataclass(frozen=True)
class Poses:
    """A batch: what the network is given, `(B, N, ...)`, and the displacement that it shall find, `(B,)` in Å."""

    pos: Tensor
    channel: Tensor
    radius: Tensor
    mask: Tensor
    ligand: Tensor
    rmsd: Tensor

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Arguments of the network."""
        return {"pos": self.pos, "channel": self.channel, "radius": self.radius, "mask": self.mask}

    def __getitem__(self, index: slice) -> Poses:
        return Poses(*(value[index] for value in vars(self).values()))


def draw(pockets: Pockets, which: Tensor, generator: torch.Generator, shift: float = 4.0, rotate: float = 1.0) -> Poses:
    """Move the ligands of pockets `which`, `(B,)`: a rotation about the ligand's centroid, and a shift.

    The shift is uniform in length up to `shift` Å and isotropic. The rotation is by a fraction, uniform up to
    `rotate`, of a Haar rotation's angle, so that poses near the crystal's are among them. The label is the root mean
    square displacement of the ligand's atoms, which no rotation of the whole changes.
    """
    device, count = which.device, len(which)
    pos, ligand = pockets.pos[which], pockets.ligand[which]
    held = ligand[..., None].to(pos)
    number = held.sum(1, keepdim=True)
    middle = (pos * held).sum(1, keepdim=True) / number
    scale = torch.rand(count, 2, generator=generator, device=device)
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, device=device), dim=-1)
    shifts = (shift * scale[:, :1] * direction)[:, None]
    rotation = _part_of_haar(rotate * scale[:, 1], generator).to(pos)
    moved = (pos - middle) @ rotation.mT + middle + shifts
    rmsd = ((moved - pos).square() * held).sum((1, 2)).div(number[:, 0, 0]).sqrt()
    placed = torch.where(ligand[..., None], moved, pos)
    return Poses(placed, pockets.channel[which], pockets.radius[which], pockets.mask[which], ligand, rmsd)


def _part_of_haar(fraction: Tensor, generator: torch.Generator) -> Tensor:
    """Haar rotations, each about its axis by a fraction `(B,)` of its angle only, `(B, 3, 3)` float64."""
    quaternions = torch.randn(len(fraction), 4, generator=generator, device=fraction.device, dtype=torch.float64)
    along = quaternions[:, 1:] * torch.where(quaternions[:, :1] < 0, -1.0, 1.0)
    half = fraction.double() * torch.atan2(along.norm(dim=-1), quaternions[:, 0].abs())
    axis = torch.nn.functional.normalize(along, dim=-1)
    return from_quaternions(torch.cat([torch.cos(half)[:, None], torch.sin(half)[:, None] * axis], 1))
