"""In how many different orientations a plan shows a structure, whose own symmetry may make some of them one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.neighborlist import natural_cutoffs, neighbor_list

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray
    from torch import Tensor

_DIGITS = 7
"""Of the marks by which orientations are distinguished; rounding makes them differ in the thirteenth."""
_DIRECTIONS = np.array([[0.61, -0.33, 0.72], [-0.27, 0.85, 0.45], [0.93, 0.21, -0.30]])


def distinct_orientations(atoms: Atoms, rotations: Tensor, beside: NDArray[np.float64] | None = None) -> int:
    """How many of the rotated copies of a structure differ by more than a symmetry of the structure.

    Orientations are distinguished by a function of the rotated arrows without any symmetry: arrows from the centre to
    the atoms, and in a periodic structure from each atom to its neighbours, which lattice vectors do not change, or of
    lone atoms the lattice vectors.

    Args:
        atoms: the structure.
        rotations: ``(..., 3, 3)``.
        beside: further arrows ``(B, 3)`` that rotate with it, such as an external field.

    >>> import torch
    >>> from ase import Atoms
    >>> quarters = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], [[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    >>> distinct_orientations(Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]), quarters)  # about its own axis
    1
    >>> distinct_orientations(Atoms("CO", [[0, 0, 0], [1.1, 0, 0]]), quarters)
    2
    """
    arrows, weights = _arrows(atoms)
    if beside is not None and len(beside):
        arrows, weights = np.concatenate([arrows, beside]), np.concatenate([weights, np.arange(1.0, 1 + len(beside))])
    flat = rotations.reshape(-1, 3, 3).double().numpy()
    along = np.einsum("ua,kab,nb->kun", _DIRECTIONS, flat, arrows)
    marks = np.exp(along / (np.abs(arrows).max(initial=0.0) or 1.0)) @ weights / (np.abs(weights).sum() or 1.0)
    return len(set(map(tuple, marks.round(_DIGITS).tolist())))


def _arrows(atoms: Atoms) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Arrows ``(B, 3)`` that rotate with the structure, and their weights ``(B,)``, by the elements they join."""
    if not atoms.pbc.any():
        return atoms.positions - atoms.positions.mean(0), atoms.numbers.astype(float)
    for reach in (1.3, 2.5):
        i, j, arrows = neighbor_list("ijD", atoms, natural_cutoffs(atoms, mult=reach))
        if len(arrows):
            break
    else:  # atoms that see nothing but their cell
        return atoms.cell.array, np.arange(1.0, 4.0)
    return arrows, atoms.numbers[i] + 2.0 * atoms.numbers[j]
