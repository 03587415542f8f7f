"""Rotations to average over: Haar sampling, designs, and the plans made of them."""

from equiv_probe.rotations.haar import angles, from_quaternions, generators, haar
from equiv_probe.rotations.plan import RotationPlan

__all__ = ["RotationPlan", "angles", "from_quaternions", "generators", "haar"]
