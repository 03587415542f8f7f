"""Which properties are evaluated together: those asked for, and those that will be asked for next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe_ase.structures.quantities import applies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ase import Atoms

    from equiv_probe_ase.structures.quantities import Quantity

ON_DEMAND = {"energies", "stresses"}
"""Evaluated when asked for only: they cost some models a pass of their own, and no dynamics reads them."""


class Companions:
    """What comes along with what was asked for, so that one state is evaluated once.

    That is everything that dynamics reads; and what the state before was asked for besides (a cell filter around a
    slab asks every state for its stress), as long as it is asked for. By boundary conditions, since they decide what a
    calculator gives.

    Args:
        quantities: that the calculator says it has.
    """

    def __init__(self, quantities: Mapping[str, Quantity]) -> None:
        self._quantities = quantities
        self._absent: dict[tuple[bool, ...], frozenset[str]] = {}
        self._habits: dict[tuple[bool, ...], frozenset[str]] = {}
        self._asked: frozenset[str] = frozenset()
        self._at: tuple[bool, ...] | None = None

    def begin(self, atoms: Atoms) -> None:
        """A new state."""
        if self._at is not None:
            self._habits = {**self._habits, self._at: self._asked}
        self._at, self._asked = _boundaries(atoms), frozenset()

    def note(self, asked: Iterable[str]) -> None:
        """Something was asked of the present state, whether it was known already or not."""
        self._asked |= frozenset(asked)

    def of(self, atoms: Atoms, asked: Sequence[str]) -> list[str]:
        """What to evaluate besides."""
        self.note(asked)
        key = _boundaries(atoms)
        left_out, habits = (known.get(key, frozenset()) for known in (self._absent, self._habits))
        return [
            name
            for name, quantity in self._quantities.items()
            if name not in left_out
            and name not in asked
            and (name in habits or (name not in ON_DEMAND and applies(quantity, atoms, asked=False)))
        ]

    def leave_out(self, atoms: Atoms, names: Sequence[str]) -> None:
        """The calculator lists these, and does not give them."""
        key = _boundaries(atoms)
        self._absent = {**self._absent, key: self._absent.get(key, frozenset()) | frozenset(names)}


def _boundaries(atoms: Atoms) -> tuple[bool, ...]:
    return tuple(bool(periodic) for periodic in atoms.pbc)
