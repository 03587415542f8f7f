"""What a diagnosis or a trace is made on: of some structures, that where the symmetry error is the largest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError, in_one_line
from equiv_probe_ase.auditing.subject import Subject as Audited
from equiv_probe_ase.calculators.by_name import as_calculator
from equiv_probe_ase.diagnosis.atoms_subject import subject_of
from equiv_probe_ase.structures.loading import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ase.calculators.calculator import Calculator

    from equiv_probe.diagnosis.subject import Subject
    from equiv_probe_ase.structures.loading import Source, Structure

STRUCTURES = 4
"""Of which the worst is looked at: the smallest of those that are given, of more than one atom."""


@dataclass
class Asked:
    """A calculator and the structures that it is asked about.

    Attributes:
        audited: the calculator, with what it gives and in which precision.
        structures: the smallest of those that were given, the smallest first.
        seed: of the rotations.
        in_float64: makes the same calculator in float64.
        notes: why structures were left out.
    """

    audited: Audited
    structures: Sequence[Structure]
    seed: int
    in_float64: Callable[[], Calculator] | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        calculator: Calculator | str | Callable[[], Calculator],
        structures: Source,
        *,
        seed: int,
        vacuum: float | None,
        in_float64: Callable[[], Calculator] | None = None,
        **options: Any,
    ) -> Asked:
        """Find out what there is to find out; arguments, and further options, as of ``diagnose``."""
        todo = load(structures, vacuum=vacuum)
        audited = Audited.of(as_calculator(calculator), todo, atoms_per_call=None, **options)
        # A single atom has no order, hardly any forces, and its symmetry hides what others show.
        smallest = sorted(todo, key=lambda one: (len(one.atoms) < 2, len(one.atoms)))[:STRUCTURES]
        return cls(audited, smallest, seed, in_float64)

    def worst(self) -> tuple[Structure, Subject]:
        """The structure with the largest error beside its size, by a few rotations of each.

        Raises:
            EquivProbeError: none could be evaluated.
        """
        found: list[tuple[float, int, Structure, Subject]] = []
        for structure in self.structures:
            try:
                subject = subject_of(structure, self.audited, seed=self.seed, in_float64=self.in_float64)
            except (Exception, SystemExit) as error:  # the others go on
                why = in_one_line(error)
                self.notes.append(f"{structure.name} failed: {why}")
                continue
            errors = [subject.error(name) / (subject.size(name) or 1.0) for name in subject.broken]
            found.append((max(errors, default=0.0), len(structure.atoms), structure, subject))
        if not found:
            raise EquivProbeError(f"structures that all failed ({self.notes[0]})", "one that can be evaluated")
        return max(found, key=lambda one: one[:2])[2:]
