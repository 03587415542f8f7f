"""Labelled molecules as padded tensors, and the random rotations that rotate them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from ase.io import read
from torch import Tensor, nn
from transformer import ELEMENTS, padded

if TYPE_CHECKING:
    from pathlib import Path


class Labelled(NamedTuple):
    """Labelled molecules, padded: positions and forces (B, N, 3) in Å and eV/Å, species (B, N), energies (B,) in eV."""

    positions: Tensor
    species: Tensor
    energies: Tensor
    forces: Tensor


def load(path: Path) -> Labelled:
    """Read an extxyz file with energies and forces; energies stay in double precision."""
    structures = read(path, ":")
    positions, species = padded(structures)
    forces = np.zeros_like(positions)
    for row, atoms in enumerate(structures):
        forces[row, : len(atoms)] = atoms.get_forces()
    energies = np.array([atoms.get_potential_energy() for atoms in structures])
    return Labelled(
        torch.as_tensor(positions, dtype=torch.float32),
        torch.as_tensor(species),
        torch.as_tensor(energies),
        torch.as_tensor(forces, dtype=torch.float32),
    )


def compositions(species: Tensor) -> Tensor:
    """Count the atoms of each element: (B, 7) float64 from species (B, N)."""
    one_hot = nn.functional.one_hot(species, len(ELEMENTS) + 1)
    return one_hot[..., 1:].sum(dim=1).double()


def fit_references(data: Labelled) -> Tensor:
    """Return the energy per element (7,) in eV that explains the total energies best, in the least-squares sense."""
    # The minimum-norm solution, which also serves a set in which some element does not occur.
    found = torch.linalg.lstsq(compositions(data.species), data.energies[:, None], driver="gelsd").solution
    # Cloned: the answer is a view of the right-hand side, which would be saved with it.
    references: Tensor = found[:, 0].clone()
    return references


def generator(seed: int, stream: int, index: int) -> torch.Generator:
    """Return a generator that depends on nothing but these three numbers."""
    state = np.random.SeedSequence([seed, stream, index]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def haar_rotations(count: int, rng: torch.Generator) -> Tensor:
    """Draw rotations (count, 3, 3) from Haar measure, as normalised Gaussian quaternions."""
    w, x, y, z = nn.functional.normalize(torch.randn(count, 4, generator=rng, dtype=torch.float64), dim=1).unbind(1)
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(entries, dim=1).view(count, 3, 3).float()
