"""The subject of a diagnosis: a calculator and, of some structures, that where its symmetry error is largest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import equiv_probe as ep
from equiv_probe.diagnosis.experiment import NotApplicable
from equiv_probe.diagnosis.subject import FEW, Subject
from equiv_probe.errors import EquivProbeError, in_one_line
from equiv_probe_ase.auditing.subject import Subject as Audited
from equiv_probe_ase.calculators.by_name import as_calculator
from equiv_probe_ase.structures.loading import load
from equiv_probe_ase.structures.quantities import applies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray
    from torch import Tensor

    from equiv_probe.estimation.controls import Control
    from equiv_probe.representations.representation import Representation
    from equiv_probe_ase.evaluators.engine import Engine
    from equiv_probe_ase.structures.loading import Source, Structure
    from equiv_probe_ase.structures.quantities import Quantity

MOMENTS = "initial_magmoms"
STRUCTURES = 4
"""Of which the worst is looked at: the smallest of those that are given, of more than one atom."""


class AtomsModel:
    """Maps ``positions`` ``(C, N, 3)`` and ``cell`` ``(C, 3, 3)`` of copies of a structure to its properties.

    Args:
        atoms: the structure; its copies share what is not among the inputs.
        engine: evaluates.
        quantities: by ASE's name.
        precision: of the calculator.
        in_float64: makes the same calculator in float64; None if it cannot be had.
        controls: of the way it is evaluated.
    """

    def __init__(
        self,
        atoms: Atoms,
        engine: Engine,
        quantities: Mapping[str, Quantity],
        precision: torch.dtype,
        *,
        in_float64: Callable[[], Calculator] | None = None,
        controls: Sequence[Control] = (),
    ) -> None:
        self.atoms, self.engine, self.quantities = atoms, engine, quantities
        self.precision, self.in_float64, self.controls = precision, in_float64, controls

    def inputs(self) -> dict[str, Tensor]:
        """Of the structure itself."""
        found: dict[str, Any] = {
            "positions": self.atoms.positions,
            "numbers": self.atoms.numbers,
            "pbc": self.atoms.pbc,
        }
        if self.atoms.cell.rank == 3:
            found["cell"] = self.atoms.cell.array
        if MOMENTS in self.atoms.arrays:
            found[MOMENTS] = self.atoms.arrays[MOMENTS].astype(float)
        return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}

    def schema(self) -> ep.Schema:
        """How inputs and properties rotate."""
        inputs: dict[str, Representation] = {"positions": ep.point}
        if self.atoms.cell.rank == 3:
            inputs["cell"] = ep.vector
        moments = self.atoms.arrays.get(MOMENTS)
        if moments is not None and moments.ndim == 2:
            inputs[MOMENTS] = ep.axial
        return ep.Schema(inputs, {name: quantity.representation for name, quantity in self.quantities.items()})

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Properties ``(C, …)`` of copies."""
        rows = self.of(self.copies(inputs))
        return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in self.quantities}

    def of(self, structures: Sequence[Atoms]) -> list[dict[str, NDArray[np.float64]]]:
        """Properties of any structures, in the reported units."""
        results = self.engine.run(list(structures), list(self.quantities))
        return [
            {name: quantity.values(one[name], atoms) for name, quantity in self.quantities.items()}
            for one, atoms in zip(results, structures, strict=True)
        ]

    def copies(self, inputs: Mapping[str, Tensor]) -> list[Atoms]:
        """Structures from inputs, of which what does not rotate is shared."""
        own = self.inputs()
        each = {name for name, value in inputs.items() if value.ndim > own[name].ndim}
        count = len(inputs["positions"])
        return [self._copy({n: v[k] if n in each else v for n, v in inputs.items()}) for k in range(count)]

    def _copy(self, values: Mapping[str, Tensor]) -> Atoms:
        copy = self.atoms.copy()
        copy.set_constraint()
        copy.numbers[:] = values["numbers"].numpy()
        if "cell" in values:
            copy.set_cell(values["cell"].numpy(), scale_atoms=False)
        if MOMENTS in values:
            copy.arrays[MOMENTS] = values[MOMENTS].numpy().reshape(self.atoms.arrays[MOMENTS].shape)
        copy.arrays["positions"][:] = values["positions"].numpy()
        return copy


def subject_of(
    structure: Structure,
    audited: Audited,
    *,
    seed: int = 0,
    in_float64: Callable[[], Calculator] | None = None,
    first: int = FEW,
) -> Subject:
    """The subject of a diagnosis: one structure, evaluated by what evaluates an audit.

    Args:
        structure: to look at.
        audited: the calculator, with what it gives and in which precision.
        seed: of the rotations.
        in_float64: makes the same calculator in float64.
        first: rotations to evaluate it at now.
    """
    quantities = {n: q for n, q in audited.quantities.items() if applies(q, structure.atoms, asked=False)}
    model = AtomsModel(
        structure.atoms,
        audited.engine,
        quantities,
        audited.precision,
        in_float64=in_float64,
        controls=audited.controls,
    )
    units = {name: quantity.unit for name, quantity in quantities.items()}
    scales = {name: quantity.factor for name, quantity in quantities.items()}
    return Subject(
        model,
        model.inputs(),
        model.schema(),
        stacked=True,
        precision=audited.precision,
        units=units,
        scales=scales,
        seed=seed,
        first=first,
    )


def atoms_of(subject: Subject) -> AtomsModel:
    """The structure and the calculator behind a subject.

    Raises:
        NotApplicable: it is of another kind.
    """
    if not isinstance(subject.predict, AtomsModel):
        raise NotApplicable("the model is no calculator of a structure")
    return subject.predict


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
