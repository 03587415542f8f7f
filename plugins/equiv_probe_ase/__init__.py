"""Audit any ASE calculator for broken rotation symmetry."""
