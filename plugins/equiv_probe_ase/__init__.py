"""Audit any ASE calculator for broken rotation symmetry.

>>> from ase.build import molecule
>>> from ase.calculators.emt import EMT
>>> report = audit(EMT(), molecule("CO"))
>>> report["forces"].verdict
'round-off'
"""

from equiv_probe_ase.audit import audit
from equiv_probe_ase.calculators import make_calculator

__all__ = ["audit", "make_calculator"]
