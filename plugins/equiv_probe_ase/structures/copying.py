"""Copies of structures by the thousand: one for each rotation, and one that a calculator may do with as it likes."""

from __future__ import annotations

from copy import deepcopy

from ase import Atoms
from ase.cell import Cell

_PARTS = vars(Atoms()).keys()
"""What an Atoms of this version of ASE consists of."""
_KNOWN = {"_cellobj", "_pbc", "arrays", "_celldisp", "_constraints", "info", "_calc"}


def copied(atoms: Atoms) -> Atoms:
    """What ``atoms.copy()`` gives, in a fifth of its time, which is spent on arguments that are not there.

    Of a class or a version of ASE that keeps anything else, ``atoms.copy()`` itself.
    """
    parts = vars(atoms)
    if type(atoms) is not Atoms or not parts.keys() == _PARTS == _KNOWN:
        return atoms.copy()
    copy: Atoms = object.__new__(Atoms)
    vars(copy).update(
        _cellobj=Cell(parts["_cellobj"].array.copy()),
        _pbc=parts["_pbc"].copy(),
        _celldisp=parts["_celldisp"].copy(),
        arrays={name: array.copy() for name, array in parts["arrays"].items()},
        _constraints=deepcopy(parts["_constraints"]) if parts["_constraints"] else [],
        info=dict(parts["info"]),
        _calc=None,
    )
    return copy
