"""``audit``: how much symmetry a force field breaks on given structures."""

from __future__ import annotations

import platform
import time
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase.calculators.calculator import BaseCalculator

from equiv_probe.errors import EquivProbeError
from equiv_probe.report import Report
from equiv_probe.rotations import RotationPlan
from equiv_probe_ase.evaluators import evaluator_for
from equiv_probe_ase.journal import Journal
from equiv_probe_ase.orbits import (
    ROUND_TRIPS,
    Engine,
    Job,
    default_atoms_per_call,
    evaluate_jobs,
    model_precision,
    quantities_of,
    trial,
)
from equiv_probe_ase.quantities import Quantity, choose
from equiv_probe_ase.record import record
from equiv_probe_ase.structures import Structure, load
from equiv_probe_ase.summary import BLIND_SPOTS, summarise
from equiv_probe_ase.turning import Turner, turned_constraints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ase.calculators.calculator import Calculator

    from equiv_probe.schema import Schema
    from equiv_probe_ase.structures import Source

WINDOW = 32
"""Structures that are evaluated and written to the journal together, at most."""


def audit(
    calculator: Calculator | Callable[[], Calculator],
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
) -> Report:
    """Measure the symmetry error of an ASE calculator over random rotations of structures.

    Every structure is turned as a whole (positions, cell, momenta, magnetic moments, constraints) and the calculator's
    answers are turned back: whatever still varies is broken symmetry or rounding.

    Args:
        calculator: any ASE calculator, or a function that makes one.
        structures: a file in any format of ASE, an ASE database, an Atoms, or several Atoms.
        properties: ASE property names; None takes energy, forces, stress (where all directions are periodic), dipole,
            charges and magnetic moments, as far as the calculator has them.
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

    Returns:
        The report. A structure that fails or gives non-finite values is listed in ``failures`` and spoils nothing.

    Raises:
        EquivProbeError: nothing to measure, an unknown property, or a journal of another question.

    Source: Shen, Nowara, Maser & Cho, TMLR 12/2025 (arXiv:2512.02303) for the decomposition.
    """
    calc = calculator if isinstance(calculator, BaseCalculator) else calculator()
    plan = plan or RotationPlan()
    _check(plan, rel_err, max_rotations)
    todo = load(structures, reference_keys=reference_keys, vacuum=vacuum)
    evaluator = evaluator_for(calc, batched=batched)
    chosen = choose(calc.implemented_properties, properties, schema)
    given, sample = trial(evaluator, chosen, todo)
    if properties is None:
        chosen = given
    label = name or type(calc).__name__
    source = str(structures) if isinstance(structures, (str, Path)) else f"{len(todo)} given structures"
    options = _Options(plan, center, dict(schema.inputs) if schema else {}, loss, rel_err, max_rotations, properties)
    question = {**options.question(), "model": label, "quantities": list(chosen), "vacuum": vacuum, "source": source}
    engine = Engine(evaluator, atoms_per_call or default_atoms_per_call(calc, evaluator))
    precision = precision or model_precision(calc, sample)
    began, complete = time.perf_counter(), True
    with Journal(Path(journal) if journal else None, question, fresh=fresh) as book:
        rest = [structure for structure in todo if structure.key not in book.records]
        resumed = len(todo) - len(rest)
        try:
            with _progress(len(todo), resumed, label, shown=progress) as advance:
                for window in _windows(rest, plan.size + ROUND_TRIPS + 1, engine):
                    book.append(_measure(window, engine, chosen, options, precision))
                    advance(len(window))
        except KeyboardInterrupt:
            complete = False
        done = [book.records[s.key] for s in todo if s.key in book.records]
    records = [entry for entry in done if "error" not in entry]
    failures = [{"name": entry["name"], "error": entry["error"]} for entry in done if "error" in entry]
    protocol = {
        "plan": str(plan) + (f", more until ± {100 * rel_err:g} %" if rel_err else ""),
        "rotations": sum(entry["rotations"] for entry in records),
        "center": str(center),
        "precision": str(precision).removeprefix("torch."),
        "evaluator": evaluator.name + (f" ({evaluator.note})" if evaluator.note else ""),
        "evaluations": engine.evaluations,
        "model calls": engine.calls,
        "model seconds": round(engine.seconds, 1),
        "seconds": round(time.perf_counter() - began, 1),
        **({"resumed structures": resumed} if resumed else {}),
        "versions": _versions(calc),
    }
    notes = _notes(todo, records, failures, options)
    return Report(
        model=label,
        source=source,
        protocol=protocol,
        measured=summarise(records, chosen, loss),
        structures=records,
        failures=failures,
        notes=notes,
        blind_spots=BLIND_SPOTS,
        complete=complete,
    )


@dataclass(frozen=True)
class _Options:
    """What the numbers depend on, besides model and structures."""

    plan: RotationPlan
    center: str | Sequence[float]
    extra: Mapping[str, Any]
    loss: str
    rel_err: float | None
    max_rotations: int
    asked: Sequence[str] | None

    def question(self) -> dict[str, Any]:
        return {
            "plan": str(self.plan),
            "center": str(self.center),
            "inputs": {name: str(rep) for name, rep in self.extra.items()},
            "loss": self.loss,
            "rel_err": self.rel_err,
            "max_rotations": self.max_rotations if self.rel_err else None,
        }


def _check(plan: RotationPlan, rel_err: float | None, max_rotations: int) -> None:
    if not plan.is_random or plan.R < 2:
        raise EquivProbeError(str(plan), "at least two randomly turned replicates", "RotationPlan(..., replicates=4)")
    if rel_err is not None and not rel_err > 0:
        raise EquivProbeError(f"rel_err={rel_err}", "a positive fraction", "rel_err=0.1")
    if rel_err is not None and max_rotations < plan.size:
        raise EquivProbeError(f"max_rotations={max_rotations}", f"at least the plan's {plan.size}")


def _windows(structures: Sequence[Structure], copies: int, engine: Engine) -> Iterator[list[Structure]]:
    """Structures that are evaluated together: enough to fill a model pass, few enough to lose little on a kill."""
    window: list[Structure] = []
    atoms = 0
    limit = engine.atoms_per_call if engine.evaluator.batched else 1
    for structure in structures:
        cost = copies * len(structure.atoms)
        if window and (atoms + cost > limit or len(window) >= WINDOW):
            yield window
            window, atoms = [], 0
        window.append(structure)
        atoms += cost
    if window:
        yield window


def _measure(
    window: Sequence[Structure],
    engine: Engine,
    chosen: Mapping[str, Quantity],
    options: _Options,
    precision: torch.dtype,
) -> list[dict[str, Any]]:
    """Records of a window's structures, with an ``"error"`` where one failed."""
    jobs: dict[int, Job] = {}
    finished: dict[int, dict[str, Any]] = {}
    for structure in window:
        try:
            turner = Turner(structure.atoms, options.center, options.extra)
            own = quantities_of(chosen, structure.atoms, options.asked)
            if len(structure.atoms) == 0:
                raise EquivProbeError("an empty structure", "at least one atom")
            jobs[structure.index] = Job(structure, own, options.plan, turner, precision)
        except EquivProbeError as error:
            finished[structure.index] = _failure(structure, error)
    open_jobs = list(jobs.values())
    while open_jobs:
        failed = evaluate_jobs(engine, open_jobs)
        again = []
        for job in open_jobs:
            index = job.structure.index
            try:
                if index in failed:
                    raise failed[index]
                finished[index] = record(job, options.loss)
            except Exception as error:  # whatever a calculator raises on one structure stays with that structure
                finished[index] = _failure(job.structure, error)
                continue
            extra = _replicates_to_add(finished[index], job, options)
            if extra:
                job.more(extra)
                again.append(job)
        open_jobs = again
    return [finished[structure.index] for structure in window]


def _failure(structure: Structure, error: Exception) -> dict[str, Any]:
    reason = str(error) if isinstance(error, EquivProbeError) else f"{type(error).__name__}: {error}"
    return {
        "key": structure.key,
        "index": structure.index,
        "name": structure.name,
        "error": " ".join(reason.split())[:500],
    }


def _replicates_to_add(found: Mapping[str, Any], job: Job, options: _Options) -> int:
    """How many more replicates a structure needs: none at round-off, when tight enough, or at the limit."""
    if options.rel_err is None:
        return 0
    from equiv_probe.verdict import verdict

    wanted = 0.0
    for name, values in found["quantities"].items():
        unit = job.quantities[name].unit
        judged = verdict(values["rms"], max(values["floor"], values["resolution"]), values["nondeterminism"], unit)
        low, high = values["equiv_interval"]
        if judged.kind in {"round-off", "non-deterministic"} or low is None or values["equiv"] <= 0:
            continue
        wanted = max(wanted, (high - low) / 2 / values["equiv"] / options.rel_err)
    have, limit = len(job.rotations), options.max_rotations // options.plan.n
    if wanted <= 1 or have >= limit:
        return 0
    # The width falls as 1/√R; at most fourfold a round, since the width itself is an estimate.
    return min(max(1, round(have * min(wanted**2, 4)) - have), limit - have)


def _notes(
    todo: Sequence[Structure],
    records: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    options: _Options,
) -> list[str]:
    notes = []
    if failures:
        notes.append(f"{len(records)} of {len(todo)} structures measured, {len(failures)} failed and are listed")
    doubts: dict[str, list[str]] = {}  # the first structure that has any speaks for all
    for entry in records:
        for name, values in entry["quantities"].items():
            doubts[name] = doubts.get(name) or values["notes"]
    notes += [note for found in doubts.values() for note in found]
    identity = torch.eye(3, dtype=torch.float64).numpy()
    unknown = {n for s in todo for n in turned_constraints(s.atoms.constraints, identity, identity[0])[1]}
    if unknown:
        notes.append(
            f"constraints that cannot be turned were left out of the turned copies: {', '.join(sorted(unknown))}"
        )
    bounds = [
        (e["rms"], e["torque_bound"]) for r in records if (e := r["quantities"].get("energy")) and "torque_bound" in e
    ]
    broken = [pair for pair in bounds if pair[0] > pair[1] * 1.05 and pair[0] > 0]
    if bounds and not broken:
        spread, bound = (max(column) for column in zip(*bounds, strict=True))
        notes.append(
            f"if the forces are the energy's gradient, net torque lets the energy vary by {bound:.3g} meV/atom at most "
            f"over rotations; it varied by up to {spread:.3g}"
        )
    if options.rel_err is not None:
        stopped = sum(1 for r in records if r["rotations"] == options.plan.size)
        notes.append(
            f"{stopped} of {len(records)} structures needed no more than the first {options.plan.size} rotations"
        )
    return notes


def _versions(calculator: object) -> str:
    package = type(calculator).__module__.split(".")[0]
    names = ["equiv-probe", "torch", "ase", *({"orb_models": ["orb-models"]}.get(package, [package]))]
    found = [f"Python {platform.python_version()}"]
    for name in dict.fromkeys(names):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _progress(total: int, done: int, label: str, *, shown: bool) -> Any:
    """A progress bar over structures as a context manager that gives ``advance(count)``."""
    if not shown:
        return nullcontext(lambda _: None)
    from equiv_probe_ase.progress import bar

    return bar(total, done, label)
