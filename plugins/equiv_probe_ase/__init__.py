"""Audit any ASE calculator for broken rotation symmetry.

>>> from ase.build import molecule
>>> from ase.calculators.emt import EMT
>>> from equiv_probe_ase import audit
>>> report = audit(EMT(), molecule("CO"))
>>> report["forces"].verdict
'round-off'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equiv_probe_ase.auditing import audit
    from equiv_probe_ase.calculators import make_calculator
    from equiv_probe_ase.twirled_calculator import TwirledCalculator

__all__ = ["TwirledCalculator", "audit", "make_calculator"]


def __getattr__(name: str) -> Any:
    # Not imported up front: the command line loads this package to learn its commands, with or without ASE.
    if name == "audit":
        from equiv_probe_ase.auditing import audit

        return audit
    if name == "make_calculator":
        from equiv_probe_ase.calculators import make_calculator

        return make_calculator
    if name == "TwirledCalculator":
        from equiv_probe_ase.twirled_calculator import TwirledCalculator

        return TwirledCalculator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
