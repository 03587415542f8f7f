"""Changes of a structure that ASE's comparison does not see: what a model reads beside atoms, cell and boundaries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import BaseCalculator, Calculator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ase import Atoms
    from numpy.typing import NDArray


def declared_values(atoms: Atoms, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Copies of the further inputs that a structure has; ASE's own copies of it share what ``info`` holds."""
    found = {**atoms.info, **atoms.arrays}
    return {name: np.array(found[name]) for name in names if name in found}


def changed(before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]) -> list[str]:
    """Names of the inputs that differ.

    >>> changed({"field": np.zeros(3)}, {"field": np.zeros(3)}), changed({"charge": np.array(0)}, {})
    ([], ['charge'])
    """
    return [
        name
        for name in sorted(before.keys() | after.keys())
        if name not in before or name not in after or not np.array_equal(before[name], after[name])
    ]


def seen_by(calculator: Any, before: Atoms, after: Atoms, tol: float) -> list[str]:
    """What a calculator with a comparison of its own, of a charge in ``atoms.info`` perhaps, sees change."""
    own = getattr(type(calculator), "check_state", None)
    if own in {None, Calculator.check_state, BaseCalculator.check_state}:
        return []
    kept = calculator.atoms
    calculator.atoms = before
    try:
        return list(calculator.check_state(after, tol))
    finally:
        calculator.atoms = kept
