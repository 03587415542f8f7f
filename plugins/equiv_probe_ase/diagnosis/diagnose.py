"""``diagnose`` for ASE calculators: on the structure where the symmetry error is the largest beside its size."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from equiv_probe.diagnosis.diagnose import diagnosis_of
from equiv_probe.estimation.controls import failures_of
from equiv_probe_ase.calculators.by_name import make_calculator
from equiv_probe_ase.diagnosis.atoms_subject import Asked
from equiv_probe_ase.diagnosis.experiments import ATOMS_EXPERIMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from ase.calculators.calculator import Calculator

    from equiv_probe.diagnosis.diagnosis import Diagnosis
    from equiv_probe.schema.schema import Schema
    from equiv_probe_ase.structures.loading import Source


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
    if in_float64 is None and isinstance(calculator, str):
        in_float64 = partial(make_calculator, calculator, dtype="float64")
    asked = Asked.of(
        calculator,
        structures,
        properties=properties,
        schema=schema,
        vacuum=vacuum,
        batched=batched,
        precision=precision,
        seed=seed,
        name=name,
        in_float64=in_float64,
    )
    structure, subject = asked.worst()
    subject.evaluate_all()
    audited = asked.audited
    return diagnosis_of(
        subject,
        ATOMS_EXPERIMENTS,
        model=audited.label,
        source=f"{structure.name} ({len(structure.atoms)} atoms), the worst of {len(asked.structures)}",
        everything=everything,
        budget=budget,
        protocol={"evaluator": audited.engine.evaluator.name, "versions": audited.versions},
        notes=[*failures_of(audited.controls), *asked.notes],
        began=began,
        progress=progress,
    )
