"""``audit``: how much symmetry a force field breaks on given structures."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.deprecation import renamed
from equiv_probe.errors import EquivProbeError
from equiv_probe.messages import logger
from equiv_probe.progress import progress as progress_bar
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, auto_plan, rotation_plan
from equiv_probe_ase.auditing.about import About
from equiv_probe_ase.auditing.crew import Here
from equiv_probe_ase.auditing.gradient_check import gradient_of, suspect
from equiv_probe_ase.auditing.job import ROUND_TRIPS
from equiv_probe_ase.auditing.journal import Journal, NotWrittenError
from equiv_probe_ase.auditing.models_own_labels import without_models_own_labels
from equiv_probe_ase.auditing.options import Options
from equiv_probe_ase.auditing.reporting import report_of
from equiv_probe_ase.auditing.resumption import left_to_do
from equiv_probe_ase.auditing.subject import Recipe, Subject, sample_of
from equiv_probe_ase.auditing.torchrun import Ranks, use_own_gpu, world
from equiv_probe_ase.auditing.windows import part_of, windows
from equiv_probe_ase.averaging.average import Averager
from equiv_probe_ase.averaging.choice import chosen_plan, spread_over
from equiv_probe_ase.calculators.by_name import as_calculator
from equiv_probe_ase.structures.loading import distinct, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from distributed import Client

    from equiv_probe.estimation.choice_of_plan import ChosenPlan
    from equiv_probe.results.report import Report
    from equiv_probe.rotations.resolve import AutoPlan
    from equiv_probe.schema.schema import Schema
    from equiv_probe_ase.auditing.crew import Crew
    from equiv_probe_ase.auditing.subject import Findings
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
    part: str | None = None,
    cluster: str | Path | Client | None = None,
    workers: int | None = None,
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
        part: such as ``"3/16"``, the third of sixteen parts of the structures; :func:`equiv_probe_ase.merge` puts the
            journals of parts together, to the numbers of the whole.
        cluster: of Dask: ``"dask"`` for processes of this machine, a scheduler's address (``"tcp://host:8786"``), its
            file, or a ``distributed.Client``. Give the calculator by its name, or a function that makes one. Without,
            processes that ``torchrun`` has started share the structures, and all get the report.
        workers: how many processes of this machine, for ``"dask"``; None takes one for each core.

    Returns:
        The report. A structure that fails or gives non-finite values is listed in ``failures`` and spoils nothing; one
        that was given twice is measured and counted once.

    Raises:
        EquivProbeError: nothing to measure, an unknown property, or a journal of another question.

    Source: Shen, Nowara, Maser & Cho, TMLR 12/2025 (arXiv:2512.02303) for the decomposition.
    """
    if cluster is None:  # or its workers make it
        use_own_gpu()
        calculator = as_calculator(calculator)
    todo, twice = distinct(load(structures, reference=reference, vacuum=vacuum))
    asked = [properties] if isinstance(properties, str) else properties
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
    how = {
        "properties": asked,
        "schema": schema,
        "precision": precision,
        "batched": batched,
        "atoms_per_call": atoms_per_call,
        "name": name,
    }
    began = time.perf_counter()
    crew = _crew(Recipe(calculator, sample_of(todo), how), todo, cluster, workers)
    try:
        findings = crew.ask(Subject.findings)
        chosen = None
        if to_choose is not None:
            chosen = crew.ask(_choice, to_choose, spread_over([one.atoms for one in todo]), options.extra)
            options = dataclasses.replace(options, plan=chosen.plan)
        todo, on_labels = without_models_own_labels(todo, crew, findings.quantities, asked=reference is not None)
        if isinstance(crew, Ranks) and crew.follows:
            return crew.follow(todo, options)
        mine = part_of(windows(todo, options.plan.size + BESIDE, findings), part)
        about = About.of(
            findings,
            options,
            source=str(structures) if isinstance(structures, (str, Path)) else f"{len(todo)} given structures",
            structures=len(todo),
            part=part or "",
            chosen=str(chosen or ""),
            share=sum(map(len, mine)),
            notes=[*twice, *on_labels, *findings.notes()],
        )
        question = {
            **options.question(),
            **findings.question(),
            "fingerprint": fingerprint,
            "vacuum": vacuum,
            "source": _name_of(structures, len(todo)),
            "reference_keys": dict(reference or {}),  # the name that journals have had for it from the first
        }
        path = Path(journal) if journal else None
        with Journal(path, question, about=about.to_store(), fresh=fresh) as book:
            report = _measured(book, mine, crew, findings, options, about=about, progress=progress, began=began)
        if isinstance(crew, Ranks):
            crew.share(report)
        return report
    finally:
        crew.close()


def _choice(subject: Subject, asked: AutoPlan, structures: Sequence[Atoms], inputs: Mapping[str, Any]) -> ChosenPlan:
    """The cheapest design that leaves as little of the calculator's equivariance error as was asked."""
    averager = Averager(subject.calculator, batched=subject.batched, atoms_per_call=subject.atoms_per_call)
    return chosen_plan(asked, averager, structures, subject.quantities, inputs)


def _crew(recipe: Recipe, todo: Sequence[Structure], cluster: Any, workers: int | None) -> Crew:
    """Who measures: a cluster if one was named, the ranks of torchrun if there are any, or this process."""
    if cluster is not None:
        from equiv_probe_ase.auditing.dask_cluster import DaskCrew

        return DaskCrew(recipe, cluster, workers)
    if workers is not None:
        raise EquivProbeError(f"workers={workers} without a cluster", "the cluster that they are of", "--cluster dask")
    if world() > 1:
        keys = hashlib.sha256(" ".join(one.key for one in todo).encode())
        return Ranks(recipe, keys.hexdigest())
    return Here(recipe)


def _measured(
    book: Journal,
    mine: Sequence[Sequence[Structure]],
    crew: Crew,
    findings: Findings,
    options: Options,
    *,
    about: About,
    progress: bool,
    began: float,
) -> Report:
    """Measure what is not in the journal yet, and report what is there then."""
    book.require_part(about.part)
    rest = left_to_do(book, mine, crew, findings)
    todo = [one for window in mine for one in window]
    wanted = {one.key for one in todo}
    resumed = sum(key in wanted for key in book.places.keys() - book.failed)
    book.require_space(todo, len(about.units), options.plan.size)
    complete, notes = True, book.notes
    try:
        with progress_bar(len(todo), about.model, "structures", done=resumed, shown=progress) as advance:
            for records in crew.each(rest, options):
                fresh = [one for one in records if one["key"] not in book or one["key"] in book.failed]
                book.append(fresh)
                advance(len(fresh))
        _look_at_gradients(book, todo, crew)
    except KeyboardInterrupt:
        complete = False
        book.read_on()  # it may have come between the disk and the memory of it
    except NotWrittenError as error:
        complete = False
        notes = [*notes, f"the results could not be written any more ({error}): those before are in {book.path}"]
        logger.error(notes[-1])
    ran = {**crew.work.protocol(), "seconds": round(time.perf_counter() - began, 1)}
    ran |= {"measured by": crew.words} if crew.words else {}
    ran |= {"resumed structures": resumed} if resumed else {}
    keys = [one.key for one in todo if one.key in book]
    return report_of(about, keys, book.__getitem__, book.gradients, complete=complete, ran=ran, notes=notes)


def _look_at_gradients(book: Journal, todo: Sequence[Structure], crew: Crew) -> None:
    """Whether forces are the energy's gradient, on the structure where that is most in doubt."""
    by_key = {one.key: one for one in todo if one.key not in book.failed}
    key = suspect(book[key] for key in by_key)
    if key is not None and key not in book.gradients:
        book.append([crew.ask(gradient_of, by_key[key])])


def _name_of(structures: Source, count: int) -> str:
    """Which file, from wherever it is called; its contents are in the keys of the structures."""
    return Path(structures).name if isinstance(structures, (str, Path)) else f"{count} given structures"
