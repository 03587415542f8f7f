"""How each quantity rotates: Cartesian tensors, irreps, rigid frames and voxel grids."""

from equiv_probe.representations.representation import Representation

__all__ = ["Representation"]
