"""``audit``: how much symmetry a force field breaks on given structures."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.controls import failures_of
from equiv_probe.estimation.losses import resolve
from equiv_probe.results.report import Report
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe_ase.auditing.batch_check import trusted
from equiv_probe_ase.auditing.controls import controls_of, summary_of
from equiv_probe_ase.auditing.journal import Journal
from equiv_probe_ase.auditing.notes import notes_on, versions
from equiv_probe_ase.auditing.orbits import ROUND_TRIPS
from equiv_probe_ase.auditing.self_labels import without_own_answers
from equiv_probe_ase.auditing.summary import blind_spots, summarise
from equiv_probe_ase.auditing.windows import Options, measure_window, windows
from equiv_probe_ase.auditing.worst_structures import with_geometry
from equiv_probe_ase.calculators.by_name import as_calculator
from equiv_probe_ase.calculators.inspection import (
    at_deformed,
    default_atoms_per_call,
    draws_anew,
    model_precision,
    trial,
    weights_digest,
)
from equiv_probe_ase.evaluators import evaluator_for
from equiv_probe_ase.evaluators.engine import Engine
from equiv_probe_ase.structures.loading import load
from equiv_probe_ase.structures.quantities import adapted, choose
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from ase.calculators.calculator import Calculator

    from equiv_probe.schema.schema import Schema
    from equiv_probe_ase.structures.loading import Source

FEW = 10
"""Structures, of which single floors do not average out."""


def audit(
    calculator: Calculator | str | Callable[[], Calculator],
    structures: Source,
    *,
    properties: Sequence[str] | None = None,
    plan: RotationPlan | None = None,
    center: str | Sequence[float] = "centroid",
    schema: Schema | None = None,
    loss: str = "mse",
    reference_keys: Mapping[str, str] | None = None,
    rel_err: float | None = None,
    max_rotations: int = 960,
    vacuum: float | None = None,
    batched: bool = True,
    atoms_per_call: int | None = None,
    precision: torch.dtype | None = None,
    journal: str | Path | None = None,
    fresh: bool = False,
    progress: bool = False,
    name: str | None = None,
    fingerprint: str = "",
) -> Report:
    """Measure the symmetry error of an ASE calculator over random rotations of structures.

    Every structure is rotated as a whole (positions, cell, momenta, magnetic moments, constraints) and the calculator's
    answers are rotated back: whatever still varies is broken symmetry or rounding.

    Args:
        calculator: any ASE calculator, its name as on the command line, or a function that makes one.
        structures: a file in any format of ASE, an ASE database, an Atoms, or several Atoms.
        properties: ASE property names, or one; None takes energy, forces, stress (where all directions are periodic),
            dipole, charges and magnetic moments, as far as the calculator has them.
        plan: rotations; None is four tetrahedral replicates, 48 rotations.
        center: of rotation: ``"centroid"``, ``"origin"``, ``"cell"`` or a point (Å).
        schema: representations of further outputs, and of further inputs in ``atoms.arrays`` or ``atoms.info``.
        loss: for the comparison with reference values, as in :func:`equiv_probe.decompose`.
        reference_keys: names of the reference values by property; None takes ``REF_*``, then the attached results.
        rel_err: adds replicates until the half-width of each structure's 95 % interval of ``L_equiv`` is below this
            fraction of it. A structure at round-off stops at once.
        max_rotations: per structure, for ``rel_err``.
        vacuum: margin (Å) of a box around structures without a cell, for models that need one.
        batched: False calls the calculator once per rotation even if its model takes batches.
        atoms_per_call: most atoms in one model pass; halved when memory runs out.
        precision: of the model; None finds out.
        journal: an append-only file of results; the same call resumes from it.
        fresh: start the journal over.
        progress: show a progress bar.
        name: of the model, for the report.
        fingerprint: of what else the model depends on (torch weights are seen), so that a journal of another is not
            resumed.

    Returns:
        The report. A structure that fails or gives non-finite values is listed in ``failures`` and spoils nothing.

    Raises:
        EquivProbeError: nothing to measure, an unknown property, or a journal of another question.

    Source: Shen, Nowara, Maser & Cho, TMLR 12/2025 (arXiv:2512.02303) for the decomposition.
    """
    calc = as_calculator(calculator)
    plan = plan or RotationPlan()
    properties = [properties] if isinstance(properties, str) else properties
    _check(plan, rel_err, max_rotations)
    for option, number in (("vacuum", vacuum), ("atoms_per_call", atoms_per_call)):
        if number is not None and not number > 0:
            raise EquivProbeError(f"{option}={number}", "a positive number")
    if getattr(resolve(loss), "name", "") == "cross-entropy":
        raise EquivProbeError(
            "loss='cross-entropy'", "a loss on numbers: force fields do not predict classes", "loss='mse'"
        )
    todo = load(structures, reference_keys=reference_keys, vacuum=vacuum)
    if center != "cell":  # which is a matter of each structure
        Rotator(todo[0].atoms, center).pivot()  # an impossible centre is the caller's mistake, not a structure's
    evaluator = evaluator_for(calc, batched=batched)
    chosen = choose(calc.implemented_properties, properties, schema)
    given, sample = trial(evaluator, chosen, todo)
    if properties is None:
        chosen = given
    chosen = adapted(chosen, sample)
    precision = precision or model_precision(calc, at_deformed(evaluator, sample, todo))
    evaluator, of_the_batch = trusted(evaluator, calc, chosen, todo, precision)
    todo, remarks = without_own_answers(todo, evaluator, chosen, precision, asked=reference_keys is not None)
    if draws_anew(calc):
        remarks.append("the calculator draws new rotations at every call: what one frame is off by shows as chance")
    label = name or type(calc).__name__
    source = str(structures) if isinstance(structures, (str, Path)) else f"{len(todo)} given structures"
    inputs = dict(schema.inputs) if schema else {}
    options = Options(plan, center, inputs, loss, rel_err, max_rotations, properties, few=len(todo) < FEW)
    question = {
        **options.question(),
        "model": label,
        "fingerprint": fingerprint,
        "weights": weights_digest(calc),
        "versions": versions(calc),
        "quantities": {name: str(quantity.representation) for name, quantity in chosen.items()},
        "asked": list(properties) if properties is not None else None,
        "precision": str(precision),
        "vacuum": vacuum,
        "source": source,
        "reference_keys": dict(reference_keys or {}),
    }
    engine = Engine(evaluator, atoms_per_call or default_atoms_per_call(calc, evaluator))
    began, complete = time.perf_counter(), True
    with Journal(Path(journal) if journal else None, question, fresh=fresh) as book:
        # What failed is tried again: the reason may have been the machine's.
        rest = [s for s in todo if "error" in book.records.get(s.key, {"error": "not measured yet"})]
        resumed = len(todo) - len(rest)
        try:
            with _progress(len(todo), resumed, label, shown=progress) as advance:
                for window in windows(rest, plan.size + ROUND_TRIPS + 3, engine):
                    book.append(measure_window(window, engine, chosen, options, precision))
                    advance(len(window))
        except KeyboardInterrupt:
            complete = False
        done = [book.records[s.key] for s in todo if s.key in book.records]
    records = [entry for entry in done if "error" not in entry]
    failures = [{"name": entry["name"], "error": entry["error"]} for entry in done if "error" in entry]
    controls = [*of_the_batch, *controls_of(records, chosen, moved=options.is_moved)]
    protocol = {
        "plan": str(plan) + (f", more until ± {100 * rel_err:g} %" if rel_err else ""),
        "rotations": sum(entry["rotations"] for entry in records),
        "distinct orientations": sum(entry.get("orientations", entry["rotations"]) for entry in records),
        "center": str(center),
        "precision": str(precision).removeprefix("torch."),
        "evaluator": evaluator.name + (f" ({evaluator.note})" if evaluator.note else ""),
        "controls": summary_of(controls),
        "evaluations": engine.evaluations,
        "model calls": engine.calls,
        "model seconds": round(engine.seconds, 1),
        "seconds": round(time.perf_counter() - began, 1),
        **({"resumed structures": resumed} if resumed else {}),
        "versions": versions(calc),
    }
    notes = [*failures_of(controls), *notes_on(todo, records, failures, options), *remarks]
    return Report(
        model=label,
        source=source,
        protocol=protocol,
        measured=summarise(records, chosen, loss),
        structures=with_geometry(records, todo),
        failures=failures,
        notes=notes,
        blind_spots=blind_spots(plan, moved=options.is_moved),
        complete=complete,
    )


def _check(plan: RotationPlan, rel_err: float | None, max_rotations: int) -> None:
    if not plan.is_rotated or plan.R < 2:
        raise EquivProbeError(str(plan), "at least two randomly rotated replicates", "RotationPlan(..., replicates=4)")
    if rel_err is not None and not rel_err > 0:
        raise EquivProbeError(f"rel_err={rel_err}", "a positive fraction", "rel_err=0.1")
    if rel_err is not None and max_rotations < plan.size:
        raise EquivProbeError(f"max_rotations={max_rotations}", f"at least the plan's {plan.size}")


def _progress(total: int, done: int, label: str, *, shown: bool) -> Any:
    """A progress bar over structures as a context manager that gives ``advance(count)``."""
    if not shown:
        return nullcontext(lambda _: None)
    from equiv_probe_ase.auditing.progress import bar

    return bar(total, done, label)
