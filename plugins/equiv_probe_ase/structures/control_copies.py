"""Copies of a structure that its controls need, evaluated beside the rotated ones: one deformed, one moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe_ase.structures.copying import copied
from equiv_probe_ase.structures.rotation import rotated_constraints

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

DISPLACEMENT = 0.03
"""Root-mean-square displacement of a coordinate in the deformed copy, Å: far above rounding and above what caches
compare with, small beside a bond."""
STRAIN = 0.01
"""Of the cell in the deformed copy: what a crystal of one atom feels."""
SHIFT = 2.5
"""Length of the translation, Å: more than a bond, and little enough to cost no precision."""


@dataclass(frozen=True)
class ControlCopies:
    """The copies for the controls of one structure.

    Args:
        atoms: the structure; never changed.
        seed: of the displacements and the translation.
        moves: whether a translated copy is wanted; a model in a fixed frame may depend on where a structure is.
    """

    atoms: Atoms
    seed: tuple[int, ...]
    moves: bool = True
    shift: NDArray[np.float64] = field(init=False)
    """Of the moved copy, ``(3,)`` in Å."""

    def __post_init__(self) -> None:
        direction = np.random.default_rng((*self.seed, 1)).standard_normal(3)
        object.__setattr__(self, "shift", SHIFT * direction / np.linalg.norm(direction))

    @property
    def deforms(self) -> bool:
        """Whether there is a deformation: an atom alone has none."""
        return len(self.atoms) > 1 or bool(self.atoms.pbc.any())

    def deformed(self) -> Atoms:
        """Atoms displaced at random, two along their bond, and a periodic cell strained: no rotation does that."""
        rng = np.random.default_rng((*self.seed, 0))
        copy = bare(self.atoms)
        if copy.pbc.any():
            strain = STRAIN * rng.standard_normal((3, 3))
            copy.set_cell(copy.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        displacement = rng.standard_normal((len(copy), 3))
        if len(copy) == 2:
            bond = copy.positions[1] - copy.positions[0]
            displacement = np.stack([-bond, bond]) / (np.linalg.norm(bond) or 1.0)
        copy.positions += DISPLACEMENT * displacement
        return copy

    def moved(self) -> Atoms:
        """Moved by a random vector, wrapped into the cell where it is periodic, and half of the atoms moved a cell on.

        Wrapping alone makes the mirror image of some perfect crystals' cells.
        """
        copy = bare(self.atoms)
        copy.positions += self.shift
        if copy.pbc.any():
            copy.wrap()
            images = np.random.default_rng((*self.seed, 2)).integers(0, 2, (len(copy), 3)) * copy.pbc
            copy.positions += images @ copy.cell.array
        held = [one for one in self.atoms.constraints if type(one).__name__ != "Hookean"]  # some have an anchor
        copy.set_constraint(rotated_constraints(held, np.eye(3), np.zeros(3))[0])  # a model may apply them itself
        return copy


def bare(atoms: Atoms) -> Atoms:
    """A copy whose constraints do not hold the atoms where they are."""
    copy = copied(atoms)
    copy.set_constraint()
    return copy
