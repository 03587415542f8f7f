"""Whether a calculator remembers what it gave for a rotated copy, and gives it again for the structure itself.

A cache by distances, or by any other invariant, makes every model look invariant: all rotated copies get what the first
one got. Nearby structures do not: their distances differ. So a structure is evaluated right after a rotated copy of
itself, and what it gets is compared with what its neighbours along a line say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.controls import Control, forgets, memory_not_asked
from equiv_probe_ase.structures.control_copies import ControlCopies, bare
from equiv_probe_ase.structures.quantities import adapted, applies, size_of
from equiv_probe_ase.structures.rotation import rotated_at_random

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

    from equiv_probe_ase.evaluators import Evaluator
    from equiv_probe_ase.structures.loading import Structure
    from equiv_probe_ase.structures.quantities import Quantity

STEP = 0.1
"""Between neighbours, of the displacement of a deformed copy: 0.003 Å, more than caches round to, and nearly linear."""
BENDING = 10.0
"""Times the third difference that the fourth one, which is what the comparison leaves, may be."""
ROUNDING = 1e3
"""Units in the last place that an output may be off by."""


def remembered(
    evaluator: Evaluator, chosen: Mapping[str, Quantity], structures: Sequence[Structure], precision: torch.dtype
) -> list[Control]:
    """The control of memory, on the smallest structure that can be deformed: six evaluations, two more in doubt.

    Args:
        evaluator: of the calculator.
        chosen: what is measured.
        structures: to choose from.
        precision: of the model.

    Returns:
        The control; not run where nothing can be deformed, or evaluated.
    """
    for structure in sorted(structures, key=lambda one: len(one.atoms)):
        copies = ControlCopies(structure.atoms, (0, structure.seed))
        if not len(structure.atoms) or not copies.deforms:
            continue
        had = {name: q for name, q in chosen.items() if applies(q, structure.atoms, asked=False)}
        try:
            return [_asked(_Line(evaluator, copies, had), structure, precision)] if had else []
        except (Exception, SystemExit):  # what fails here fails again where it is reported, structure by structure
            return [memory_not_asked("the structure that was to be compared could not be evaluated")]
    return [memory_not_asked("no structure can be deformed")]


class _Line:
    """Outputs along the line from a structure to its deformed copy, in units of ``STEP`` of the way."""

    def __init__(self, evaluator: Evaluator, copies: ControlCopies, chosen: Mapping[str, Quantity]) -> None:
        self._evaluator, self._copies, self.chosen = evaluator, copies, chosen

    def at(self, place: float, *, rotated: bool = False) -> dict[str, NDArray[np.float64]]:
        """Outputs at one place, in reported units; ``rotated``: of a copy, not rotated back."""
        atoms = self._structure(place)
        if rotated:
            atoms = rotated_at_random(atoms, self._copies.seed[-1])
        given = self._evaluator.evaluate([atoms], list(self.chosen))[0]
        return {name: q.values(given[name], atoms) for name, q in adapted(self.chosen, given).items()}

    def _structure(self, place: float) -> Atoms:
        start, end = bare(self._copies.atoms), self._copies.deformed()
        part = STEP * place
        start.set_cell((1 - part) * start.cell.array + part * end.cell.array)
        start.positions = (1 - part) * start.positions + part * end.positions
        return start


def _asked(line: _Line, structure: Structure, precision: torch.dtype) -> Control:
    own, one, two, three = (line.at(place) for place in range(4))
    line.at(-1, rotated=True)
    after = line.at(-1)
    doubtful: dict[str, tuple[float, float]] = {}
    for name, quantity in line.chosen.items():
        said = 4 * own[name] - 6 * one[name] + 4 * two[name] - three[name]
        digits = ROUNDING * float(torch.finfo(precision).eps) * (size_of(own[name]) + quantity.factor)
        limit = BENDING * size_of(own[name] - 3 * one[name] + 3 * two[name] - three[name]) + digits
        off = size_of(after[name] - said)
        if off > limit:
            doubtful[name] = off, limit
    # Chance, and a neighbour that enters at a cutoff, do that too: then they do it again.
    again, beyond = (line.at(0), line.at(-1.5)) if doubtful else ({}, {})
    for name, (off, limit) in doubtful.items():
        jump = beyond[name] - (4.375 * own[name] - 5.25 * one[name] + 1.875 * two[name])
        most = limit + BENDING * (size_of(again[name] - own[name]) + size_of(jump))
        if off > most:
            return forgets(name, structure.name, off, most, line.chosen[name].unit)
    return forgets("", "", 0.0, 0.0, "")
