"""How each quantity rotates: Cartesian tensors, irreps, rigid frames and voxel grids."""
