"""``diagnose`` for ASE calculators: on the structure where the symmetry error is the largest beside its size."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from equiv_probe.diagnosis.diagnose import diagnosis_of
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.controls import failures_of
from equiv_probe_ase.auditing.subject import Subject as Audited
from equiv_probe_ase.calculators.by_name import as_calculator, make_calculator
from equiv_probe_ase.diagnosis.atoms_subject import subject_of
from equiv_probe_ase.diagnosis.experiments import ATOMS_EXPERIMENTS
from equiv_probe_ase.structures.loading import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from ase.calculators.calculator import Calculator

    from equiv_probe.diagnosis.diagnosis import Diagnosis
    from equiv_probe.diagnosis.subject import Subject
    from equiv_probe.schema.schema import Schema
    from equiv_probe_ase.structures.loading import Source, Structure

STRUCTURES = 4
"""Of which the worst is looked at: the smallest of those that are given, of more than one atom."""


def diagnose(
    calculator: Calculator | str | Callable[[], Calculator],
    structures: Source,
    *,
    properties: Sequence[str] | None = None,
    schema: Schema | None = None,
    vacuum: float | None = None,
    batched: bool = True,
    precision: torch.dtype | None = None,
    everything: bool = False,
    budget: int | None = None,
    seed: int = 0,
    progress: bool = True,
    name: str | None = None,
    in_float64: Callable[[], Calculator] | None = None,
) -> Diagnosis:
    """Find out why a calculator breaks symmetry: experiments, the cheapest first, until one explains the error.

    Args:
        calculator: any ASE calculator, its name as on the command line, or a function that makes one.
        structures: as for :func:`equiv_probe_ase.audit`. The smallest four are rotated, and the experiments are made on
            the one with the largest error beside its size.
        properties: ASE property names; None takes what the calculator has.
        schema: representations of further outputs.
        vacuum: margin (Å) of a box around structures without a cell.
        batched: False calls the calculator once per rotation even if its model takes batches.
        precision: of the model; None finds out.
        everything: run all experiments, also when the error is explained.
        budget: evaluations beyond which no experiment is begun.
        seed: of the rotations.
        progress: show how far it is.
        name: of the model, for the report.
        in_float64: makes the same calculator in float64; None does so where it was given by name.

    Returns:
        The diagnosis.

    Raises:
        EquivProbeError: nothing to measure, or no structure could be evaluated.
    """
    began = time.perf_counter()
    todo = load(structures, vacuum=vacuum)
    made = as_calculator(calculator)
    audited = Audited.of(
        made,
        todo,
        properties=properties,
        schema=schema,
        precision=precision,
        batched=batched,
        atoms_per_call=None,
        name=name,
    )
    if in_float64 is None and isinstance(calculator, str):
        spec = calculator
        in_float64 = lambda: make_calculator(spec, dtype="float64")  # noqa: E731
    structure, subject, notes = worst_of(todo, lambda one: subject_of(one, audited, seed=seed, in_float64=in_float64))
    return diagnosis_of(
        subject,
        ATOMS_EXPERIMENTS,
        model=audited.label,
        source=f"{structure.name} ({len(structure.atoms)} atoms), the worst of {min(STRUCTURES, len(todo))}",
        everything=everything,
        budget=budget,
        protocol={"evaluator": audited.engine.evaluator.name, "versions": audited.versions},
        notes=[*failures_of(audited.controls), *notes],
        began=began,
        progress=progress,
    )


def worst_of(todo: Sequence[Structure], made: Callable[[Structure], Subject]) -> tuple[Structure, Subject, list[str]]:
    """The structure with the largest error beside its size, and remarks on those that failed."""
    found: list[tuple[float, Structure, Subject]] = []
    notes = []
    # Small ones, but a single atom has no order, hardly any forces, and its symmetry hides what others show.
    for structure in sorted(todo, key=lambda one: (len(one.atoms) < 2, len(one.atoms)))[:STRUCTURES]:
        try:
            subject = made(structure)
        except (Exception, SystemExit) as error:  # the others go on
            notes.append(f"{structure.name} failed: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}")
            continue
        errors = [subject.error(name) / (subject.size(name) or 1.0) for name in subject.broken]
        found.append((max(errors, default=0.0), structure, subject))
    if not found:
        raise EquivProbeError(f"structures that all failed ({notes[0]})", "one that can be evaluated")
    _, structure, subject = max(found, key=lambda one: (one[0], len(one[1].atoms)))
    return structure, subject, notes
