"""Small molecules for the denoiser: heavy atoms of ligands in the wwPDB's component dictionary, in five channels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equiv_probe.rotations.haar import haar

ELEMENTS = {6: 0, 7: 1, 8: 2, 16: 3, 9: 4, 17: 4, 35: 4}
"""Channel of each element: carbon, nitrogen, oxygen, sulphur, halogens."""
CHANNELS = 5


@dataclass(frozen=True)
class Molecules:
    """Padded molecules: positions `(M, N, 3)` in Å about their centroids, channels and what is an atom `(M, N)`."""

    pos: Tensor
    channel: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.pos)

    def __getitem__(self, index: Tensor | slice) -> Molecules:
        return Molecules(self.pos[index], self.channel[index], self.mask[index])

    def at(self, pos: Tensor) -> Molecules:
        """The same with other positions."""
        return Molecules(pos, self.channel, self.mask)

    def to(self, device: torch.device) -> Molecules:
        """The same on a device."""
        return Molecules(self.pos.to(device), self.channel.to(device), self.mask.to(device))


def data_folder() -> Path:
    """Where the data are."""
    name = os.environ.get("EQUIV_PROBE_DATA")
    if not name:
        raise SystemExit("Set EQUIV_PROBE_DATA to the folder that holds ccd_ligands/ and protein_ligand/.")
    return Path(name)


def load(path: Path, reach: float, orientation: str, seed: int = 0) -> Molecules:
    """Molecules whose heavy atoms are of the known elements and lie within `reach` Å of their centroid, shuffled.

    The dictionary's idealised coordinates are no random orientations: they come along their principal axes.

    Args:
        path: the npz file.
        reach: Å.
        orientation: `"principal"` puts the longest axis of every molecule along x and the shortest along z, so that
            the data prefer a direction and the symmetry has to be learned; `"random"` rotates every molecule once, at
            random, so that the data themselves are as good as augmented; `"given"` leaves them.
        seed: of the order, and of the random orientations.
    """
    stored = np.load(path)
    ends = np.cumsum(stored["n_atoms"].astype(int))[:-1]
    kept: list[tuple[Tensor, Tensor]] = []
    for z, xyz in zip(np.split(stored["z"], ends), np.split(stored["xyz"], ends), strict=True):
        heavy = z > 1
        centred = xyz[heavy].astype(float) - xyz[heavy].mean(0)
        if set(z[heavy]) <= set(ELEMENTS) and heavy.sum() > 3 and np.linalg.norm(centred, axis=1).max() <= reach:
            kept.append((torch.from_numpy(centred), torch.tensor([ELEMENTS[int(k)] for k in z[heavy]])))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(kept), generator=generator)
    rotations = haar(len(kept), generator)
    rows = [(_oriented(kept[k][0], orientation, rotations[k]), kept[k][1]) for k in order.tolist()]
    pos = torch.nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True).float()
    channel = torch.nn.utils.rnn.pad_sequence([row[1] for row in rows], batch_first=True, padding_value=-1)
    return Molecules(pos, channel.clamp_min(0), channel >= 0)


def _oriented(pos: Tensor, orientation: str, rotate: Tensor) -> Tensor:
    if orientation == "random":
        return pos @ rotate.T
    if orientation == "given":
        return pos
    _, axes = torch.linalg.eigh(pos.T @ pos)
    axes = axes.flip(1)
    skew = (pos @ axes).pow(3).sum(0)  # the longer tail points up, so that the axes have signs too
    axes = axes * torch.where(skew < 0, -1.0, 1.0)
    axes[:, 2] = torch.linalg.cross(axes[:, 0], axes[:, 1])  # proper: a mirror image would be another molecule
    return pos @ axes
