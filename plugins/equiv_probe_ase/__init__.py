"""Audit any ASE calculator for broken rotation symmetry.

>>> from ase.build import molecule
>>> from ase.calculators.emt import EMT
>>> from equiv_probe_ase import audit
>>> report = audit(EMT(), molecule("CO"))
>>> report["forces"].verdict
'round-off'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equiv_probe_ase.auditing.audit import audit
    from equiv_probe_ase.averaging.twirled_calculator import TwirledCalculator
    from equiv_probe_ase.calculators.by_name import make_calculator
    from equiv_probe_ase.dynamics.monitor import SymmetryMonitor

__all__ = ["SymmetryMonitor", "TwirledCalculator", "audit", "make_calculator"]
_MODULES = {
    "SymmetryMonitor": "dynamics.monitor",
    "TwirledCalculator": "averaging.twirled_calculator",
    "audit": "auditing.audit",
    "make_calculator": "calculators.by_name",
}


def __getattr__(name: str) -> Any:
    # Not imported up front: the command line loads this package to learn its commands, with or without ASE.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
