"""Audit any ASE calculator for broken rotation symmetry.

>>> from ase.build import molecule
>>> from ase.calculators.emt import EMT
>>> from equiv_probe_ase import audit
>>> report = audit(EMT(), molecule("CO"))
>>> report["forces"].verdict
'round-off'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.lazy_names import lazily

if TYPE_CHECKING:
    from equiv_probe_ase.auditing.audit import audit
    from equiv_probe_ase.auditing.merge import merge
    from equiv_probe_ase.averaging.twirled_calculator import TwirledCalculator
    from equiv_probe_ase.calculators.by_name import make_calculator
    from equiv_probe_ase.diagnosis.diagnose import diagnose
    from equiv_probe_ase.diagnosis.trace import trace
    from equiv_probe_ase.dynamics.monitor import SymmetryMonitor

__all__ = ["SymmetryMonitor", "TwirledCalculator", "audit", "diagnose", "make_calculator", "merge", "trace"]

# The command line and the probe load this package to learn of the plugin, with or without its framework.
if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "auditing.audit": ("audit",),
            "auditing.merge": ("merge",),
            "averaging.twirled_calculator": ("TwirledCalculator",),
            "calculators.by_name": ("make_calculator",),
            "diagnosis.diagnose": ("diagnose",),
            "diagnosis.trace": ("trace",),
            "dynamics.monitor": ("SymmetryMonitor",),
        },
    )
