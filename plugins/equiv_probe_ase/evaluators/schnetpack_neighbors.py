"""The neighbour list that SchNetPack's models are given where none was chosen: imported only where SchNetPack is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from schnetpack.transform import ASENeighborList, MatScipyNeighborList

if TYPE_CHECKING:
    from torch import Tensor


class FastNeighborList(MatScipyNeighborList):  # type: ignore[misc]
    """matscipy's list, and ASE's where matscipy's has other edges: in a periodic cell that lacks a vector."""

    def _build_neighbor_list(self, Z: Tensor, positions: Tensor, cell: Tensor, pbc: Tensor, cutoff: float) -> Any:  # noqa: N803 - SchNetPack's name
        is_incomplete = bool(pbc.any()) and int(torch.linalg.matrix_rank(cell)) < 3
        kind = ASENeighborList if is_incomplete else MatScipyNeighborList
        return kind._build_neighbor_list(self, Z, positions, cell, pbc, cutoff)
