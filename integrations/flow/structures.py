"""Data sets as padded tensors: the shipped ligands, 8000 of the PDB's component dictionary, traces of a protein."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SHIPPED = Path(__file__).parent / "data" / "ligands.npz"
MILLI = 1000  # integers of 0.001 Å in the shipped file


@dataclass(frozen=True)
class Structures:
    """Structures of different sizes.

    Attributes:
        z: kinds of atoms ``(n, N)``, zero in empty slots.
        x: coordinates ``(n, N, 3)``, centred, in units of ``scale``.
        sizes: atoms of each structure ``(n,)``, on the CPU.
        scale: Å in one unit; the rms coordinate of the training set.
    """

    z: Tensor
    x: Tensor
    sizes: Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, index: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates, kinds and mask of some structures, no wider than the largest of them needs."""
        width = int(self.sizes[index].max())
        x, z = self.x[index, :width], self.z[index, :width]
        return (x.to(device, non_blocking=True), z.to(device, non_blocking=True), (z > 0).to(device, non_blocking=True))

    def subset(self, index: Tensor) -> Structures:
        """Some structures, in the same units."""
        return Structures(self.z[index], self.x[index], self.sizes[index], self.scale)

    def random(self, count: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """A batch drawn with replacement from torch's global random state."""
        return self.take(torch.randint(len(self), (count,)), device)


@lru_cache
def load(name: str) -> tuple[Structures, Structures]:
    """A training and a held-out set, the latter in random order.

    Args:
        name: ``"ligands"``, ``"ccd"`` or ``"adk"``; the latter two below ``$EQUIV_PROBE_DATA``.
    """
    rng = np.random.default_rng(0)
    if name == "ligands":
        rows, held = _flat(SHIPPED, 1 / MILLI)
    elif name == "ccd":
        rows, held = _flat(_shared("ccd_ligands/ccd_ideal_8000.npz"), 1.0)
    elif name == "adk":
        traces = np.load(_shared("adk_ca/adk_dims_ca_backbone.npz"))["ca"]
        rows, held = [(np.arange(1, len(ca) + 1), ca) for ca in traces], None  # residues by their number
    else:
        raise ValueError(f"--data {name}; expected ligands, ccd or adk")
    if held is None:
        held = np.zeros(len(rows), bool)
        held[rng.choice(len(rows), min(1000, len(rows) // 5), replace=False)] = True
    centred = [(z, x - x.mean(0)) for z, x in rows]
    fit, test = np.flatnonzero(~held), rng.permutation(np.flatnonzero(held))
    scale = float(np.sqrt(np.concatenate([centred[k][1].ravel() ** 2 for k in fit]).mean()))
    train, rest = ([centred[k] for k in part] for part in (fit, test))
    return _padded(train, scale), _padded(rest, scale)


def _shared(name: str) -> Path:
    folder = os.environ.get("EQUIV_PROBE_DATA")
    if not folder:
        raise ValueError(f"EQUIV_PROBE_DATA is not set; it names the folder that holds {name}")
    return Path(folder) / name


def _flat(path: Path, unit: float) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray | None]:
    """Heavy atoms of every structure of a file of concatenated rows, and which are held out if it says so."""
    stored = np.load(path)
    cuts = np.cumsum(stored["n_atoms"].astype(int))[:-1]
    pairs = zip(np.split(stored["z"], cuts), np.split(stored["xyz"] * unit, cuts), strict=True)
    rows = [(z[z > 1].astype(int), x[z > 1]) for z, x in pairs]
    return rows, stored.get("held_out")


def _padded(rows: list[tuple[np.ndarray, np.ndarray]], scale: float) -> Structures:
    pad = nn.utils.rnn.pad_sequence
    z = pad([torch.from_numpy(z) for z, _ in rows], batch_first=True)
    x = pad([torch.from_numpy(x / scale).float() for _, x in rows], batch_first=True)
    return Structures(z, x, torch.tensor([len(z) for z, _ in rows]), scale)
