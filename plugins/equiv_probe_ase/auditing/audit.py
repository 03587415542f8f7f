"""``audit``: how much symmetry a force field breaks on given structures."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from equiv_probe.deprecation import renamed
from equiv_probe.progress import progress as progress_bar
from equiv_probe.results.report import Report
from equiv_probe.results.structure_table import StructureTable
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, auto_plan, rotation_plan
from equiv_probe_ase.auditing.controls import controls_of
from equiv_probe_ase.auditing.energy_zero import relative_to_one_zero
from equiv_probe_ase.auditing.gradient_check import torque_notes
from equiv_probe_ase.auditing.job import ROUND_TRIPS
from equiv_probe_ase.auditing.journal import Journal
from equiv_probe_ase.auditing.models_own_labels import without_models_own_labels
from equiv_probe_ase.auditing.notes import notes_on, notes_on_rounding
from equiv_probe_ase.auditing.options import Options
from equiv_probe_ase.auditing.resumption import left_to_do
from equiv_probe_ase.auditing.subject import Subject
from equiv_probe_ase.auditing.summary import blind_spots, summarise
from equiv_probe_ase.auditing.windows import measure_window, windows
from equiv_probe_ase.auditing.worst_structures import with_geometry
from equiv_probe_ase.averaging.average import Averager
from equiv_probe_ase.averaging.choice import chosen_plan, spread_over
from equiv_probe_ase.calculators.by_name import as_calculator
from equiv_probe_ase.structures.loading import load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from ase.calculators.calculator import Calculator

    from equiv_probe.schema.schema import Schema
    from equiv_probe_ase.structures.loading import Source, Structure

FEW = 10
"""Structures, of which single floors do not average out."""
BESIDE = ROUND_TRIPS + 3
"""Evaluations of a structure beside the rotated ones."""


@renamed(reference_keys="reference")
def audit(
    calculator: Calculator | str | Callable[[], Calculator],
    structures: Source,
    *,
    properties: Sequence[str] | None = None,
    plan: PlanLike | None = None,
    center: str | Sequence[float] = "centroid",
    schema: Schema | None = None,
    loss: str = "mse",
    reference: Mapping[str, str] | None = None,
    reference_offsets: Mapping[str, float] | None = None,
    rel_err: float | None = None,
    max_rotations: int = 960,
    vacuum: float | None = None,
    batched: bool = True,
    atoms_per_call: int | None = None,
    precision: torch.dtype | None = None,
    journal: str | Path | None = None,
    fresh: bool = False,
    progress: bool = True,
    name: str | None = None,
    fingerprint: str = "",
) -> Report:
    """Measure the symmetry error of an ASE calculator over random rotations of structures.

    Every structure is rotated as a whole (positions, cell, momenta, magnetic moments, constraints) and the calculator's
    outputs are rotated back: whatever still varies is broken symmetry or rounding.

    Args:
        calculator: any ASE calculator, its name as on the command line, or a function that makes one.
        structures: a file in any format of ASE, an ASE database, an Atoms, or several Atoms.
        properties: ASE property names, or one; None takes energy, forces, stress (where all directions are periodic),
            dipole, charges and magnetic moments, as far as the calculator has them.
        plan: rotations, or the name of a design; None is four tetrahedral replicates, 48 rotations. ``"auto"`` measures
            on three of the structures what designs leave of the equivariance error, and takes four replicates of the
            cheapest that together leave at most 5 %; ``{"design": "auto", "target": …, "seed": …}`` says more.
        center: of rotation: ``"centroid"``, ``"origin"``, ``"cell"`` or a point (Å).
        schema: representations of further outputs, and of further inputs in ``atoms.arrays`` or ``atoms.info``.
        loss: for the comparison with reference values, as in :func:`equiv_probe.decompose`.
        reference: keys of the reference values in ``atoms.info`` or ``atoms.arrays``, by property; None takes
            ``REF_*``, then the attached results.
        reference_offsets: what the reference's energies have more than the model's by element (eV), where the two have
            another zero; None fits it on the labelled structures where it is plainly so, ``{}`` takes energies as they
            are.
        rel_err: adds replicates until the half-width of each structure's 95 % interval of ``L_equiv`` is below this
            fraction of it. A structure at round-off stops at once.
        max_rotations: per structure, for ``rel_err``.
        vacuum: margin (Å) of a box around structures without a cell, for models that need one.
        batched: False calls the calculator once per rotation even if its model takes batches.
        atoms_per_call: most atoms in one model pass; halved when memory runs out.
        precision: of the model; None finds out.
        journal: an append-only file of results; the same call resumes from it.
        fresh: start the journal over.
        progress: show how far it is once it takes longer than two seconds, with a bar in a terminal and with lines in
            a log.
        name: of the model, for the report.
        fingerprint: of what else the model depends on (torch weights are seen), so that a journal of another is not
            resumed.

    Returns:
        The report. A structure that fails or gives non-finite values is listed in ``failures`` and spoils nothing.

    Raises:
        EquivProbeError: nothing to measure, an unknown property, or a journal of another question.

    Source: Shen, Nowara, Maser & Cho, TMLR 12/2025 (arXiv:2512.02303) for the decomposition.
    """
    made = as_calculator(calculator)
    asked = [properties] if isinstance(properties, str) else properties
    todo = load(structures, reference=reference, vacuum=vacuum)
    to_choose = auto_plan(plan, replicates=RotationPlan().R)
    options = Options(
        to_choose.plan("tetrahedral") if to_choose else rotation_plan(plan) or RotationPlan(),
        center,
        dict(schema.inputs) if schema else {},
        loss,
        rel_err,
        max_rotations,
        asked,
        reference_offsets,
        len(todo) < FEW,
    )
    options.check(todo[0].atoms)
    subject = Subject.of(
        made,
        todo,
        properties=asked,
        schema=schema,
        precision=precision,
        batched=batched,
        atoms_per_call=atoms_per_call,
        name=name,
    )
    chosen = None
    if to_choose is not None:
        averager = Averager(made, batched=batched, atoms_per_call=atoms_per_call)
        deciding = spread_over([one.atoms for one in todo])
        chosen = chosen_plan(to_choose, averager, deciding, subject.quantities, options.extra)
        options = dataclasses.replace(options, plan=chosen.plan)
    todo, on_labels = without_models_own_labels(todo, subject, asked=reference is not None)
    question = {
        **options.question(),
        **subject.question(),
        "fingerprint": fingerprint,
        "vacuum": vacuum,
        "source": _name_of(structures, len(todo)),
        "reference_keys": dict(reference or {}),  # the name that journals have had for it from the first
    }
    began = time.perf_counter()
    with Journal(Path(journal) if journal else None, question, fresh=fresh) as book:
        done, complete = _measured(book, todo, subject, options, progress=progress)
    report = _report(done, todo, subject, options, complete=complete)
    ran: dict[str, Any] = {"seconds": round(time.perf_counter() - began, 1)}
    ran |= {"resumed structures": book.resumed} if book.resumed else {}
    ran |= {"choice of the plan": str(chosen)} if chosen else {}
    return replace(
        report,
        source=str(structures) if isinstance(structures, (str, Path)) else f"{len(todo)} given structures",
        protocol={**report.protocol, **ran, "versions": subject.versions},
        notes=[*report.notes, *on_labels, *subject.notes()],
    )


def _measured(
    book: Journal, todo: Sequence[Structure], subject: Subject, options: Options, *, progress: bool
) -> tuple[list[dict[str, Any]], bool]:
    """Records of all structures that were measured, those of the journal included, and whether none is missing."""
    rest = left_to_do(book, todo, subject)
    book.resumed = len(todo) - len(rest)
    complete = True
    try:
        with progress_bar(len(todo), subject.label, "structures", done=book.resumed, shown=progress) as advance:
            for window in windows(rest, options.plan.size + BESIDE, subject.engine):
                book.append(measure_window(window, subject, options))
                advance(len(window))
    except KeyboardInterrupt:
        complete = False
    return [book.records[one.key] for one in todo if one.key in book.records], complete


def _report(
    done: Sequence[dict[str, Any]], todo: Sequence[Structure], subject: Subject, options: Options, *, complete: bool
) -> Report:
    """What the records of the structures say together."""
    records = [entry for entry in done if "error" not in entry]
    failures = [{"name": entry["name"], "error": entry["error"]} for entry in done if "error" in entry]
    controls = [*subject.controls, *controls_of(records, subject.quantities, moved=options.is_moved)]
    on_torque = torque_notes(records, todo, subject) if complete else []
    records, on_the_zero = relative_to_one_zero(records, todo, options.loss, options.offsets)
    measured = summarise(records, subject.quantities, options.loss)
    return Report(
        model=subject.label,
        source="",
        protocol={**options.protocol(records), **subject.protocol()},
        measured=measured,
        structures=StructureTable.of(with_geometry(records, todo)),
        failures=failures,
        notes=[
            *on_the_zero,
            *notes_on(todo, records, failures, options),
            *notes_on_rounding(measured, subject.quantities, todo, subject.precision),
            *on_torque,
        ],
        blind_spots=blind_spots(options.plan),
        complete=complete,
        controls=controls,
    )


def _name_of(structures: Source, count: int) -> str:
    """Which file, from wherever it is called; its contents are in the keys of the structures."""
    return Path(structures).name if isinstance(structures, (str, Path)) else f"{count} given structures"
