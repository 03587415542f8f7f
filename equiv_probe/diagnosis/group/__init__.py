"""Which symmetry is broken, and over which part of the rotations?"""
