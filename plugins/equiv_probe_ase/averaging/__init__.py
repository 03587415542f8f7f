"""Calculators averaged over rotations."""
