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
    from equiv_probe_ase.auditing import audit
    from equiv_probe_ase.calculators import make_calculator
    from equiv_probe_ase.monitor import SymmetryMonitor
    from equiv_probe_ase.twirled_calculator import TwirledCalculator

__all__ = ["SymmetryMonitor", "TwirledCalculator", "audit", "make_calculator"]
_MODULES = {
    "SymmetryMonitor": "monitor",
    "TwirledCalculator": "twirled_calculator",
    "audit": "auditing",
    "make_calculator": "calculators",
}


def __getattr__(name: str) -> Any:
    # Not imported up front: the command line loads this package to learn its commands, with or without ASE.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
