"""Audits of models of voxel grids."""
