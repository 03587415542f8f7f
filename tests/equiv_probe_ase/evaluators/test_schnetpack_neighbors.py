"""The neighbour list given to SchNetPack's models: the edges of ASE's, in every kind of cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

pytest.importorskip("schnetpack")

from schnetpack.transform import ASENeighborList, MatScipyNeighborList

from equiv_probe_ase.evaluators.schnetpack_neighbors import FastNeighborList

SKEWED = Atoms("NaCl", [[0, 0, 0], [2.8, 0.1, 0.2]], cell=[[5, 0, 0], [12, 4, 0], [3, -9, 6]], pbc=True)
RATTLED = bulk("NaCl", "rocksalt", 5.64, cubic=True)
RATTLED.rattle(0.1)
OUTSIDE = RATTLED.copy()
OUTSIDE.positions += 30 * np.random.default_rng(0).normal(size=(len(OUTSIDE), 3))
SLAB = fcc111("Cu", (2, 2, 2), vacuum=6)
OPEN_SLAB = fcc111("Cu", (2, 2, 2))  # periodic along the two vectors that there are
WIRE = Atoms("C2", [[0, 0, 0], [0, 0, 1.3]], cell=[0, 0, 2.6], pbc=(False, False, True))
KINDS = {
    "molecule": molecule("CH3CH2OH"),
    "flat molecule": molecule("C6H6"),
    "one atom": Atoms("H"),
    "molecule in a box that is too small": Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], cell=[1, 1, 1]),
    "primitive cell": bulk("Cu"),
    "rattled": RATTLED,
    "atoms outside the cell": OUTSIDE,
    "skewed": SKEWED,
    "left-handed": Atoms(RATTLED, cell=RATTLED.cell.array[[1, 0, 2]]),
    "slab": SLAB,
    "slab without a third vector": OPEN_SLAB,
    "wire": WIRE,
}


def edges(kind: Any, atoms: Atoms, cutoff: float) -> list[tuple[float, ...]]:
    """Both ends and the vector of every edge, sorted."""
    cell, pbc, x = (torch.tensor(part) for part in (atoms.cell.array, atoms.pbc, atoms.positions))
    i, j, offset = kind(cutoff=cutoff)._build_neighbor_list(torch.tensor(atoms.numbers), x, cell, pbc, cutoff)
    return sorted(map(tuple, np.round(np.c_[i, j, x[j] - x[i] + offset], 6).tolist()))


@pytest.mark.parametrize("cutoff", [2.03, 5.07])  # no distance is a tie
@pytest.mark.parametrize("name", KINDS)
def test_edges_are_those_of_ase(name: str, cutoff: float) -> None:
    assert edges(FastNeighborList, KINDS[name], cutoff) == edges(ASENeighborList, KINDS[name], cutoff)


def test_alone_the_fast_list_has_other_edges_where_a_vector_is_missing() -> None:
    for atoms in (OPEN_SLAB, WIRE):
        assert edges(MatScipyNeighborList, atoms, 5.07) != edges(ASENeighborList, atoms, 5.07)
