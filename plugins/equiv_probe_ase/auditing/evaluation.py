"""Jobs evaluated together: many rotations and small structures in few model passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe_ase.structures.quantities import applies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

    from equiv_probe_ase.auditing.job import Job
    from equiv_probe_ase.evaluators.engine import Engine
    from equiv_probe_ase.structures.quantities import Quantity


def evaluate_jobs(engine: Engine, jobs: Sequence[Job]) -> dict[int, BaseException]:
    """Evaluate what every job still lacks, in as few calls as possible.

    A call that fails is made again on either half of its jobs, so that one bad structure costs its neighbours nothing.

    Returns:
        The exception of every job that failed, by the structure's index.
    """
    failures: dict[int, BaseException] = {}
    by_properties: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        by_properties.setdefault(tuple(job.quantities), []).append(job)
    for properties, group in by_properties.items():
        failures |= _evaluate_group(engine, group, properties)
    return failures


def _evaluate_group(engine: Engine, jobs: Sequence[Job], properties: Sequence[str]) -> dict[int, BaseException]:
    """:func:`evaluate_jobs` for jobs with the same properties."""
    try:
        copies = [job.copies() for job in jobs]
        new = [job for job in jobs if not job.identity]
        results = iter(list(engine.run([atoms for part in copies for atoms in part], properties)))
        # Two calls of the same composition: within one, repeats could share an error; with other neighbours in the
        # batch, the order of sums would differ, and that is rounding, not non-determinism.
        plain = [job.structure.atoms for job in new]
        twice = list(zip(*(list(engine.run(plain, properties)) for _ in range(2)), strict=True))
    except (Exception, SystemExit) as error:  # calculators raise anything, and some packages exit
        if len(jobs) == 1:
            return {jobs[0].structure.index: error}
        half = len(jobs) // 2
        return _evaluate_group(engine, jobs[:half], properties) | _evaluate_group(engine, jobs[half:], properties)
    untouched = {job.structure.index: pair for job, pair in zip(new, twice, strict=True)}
    failures: dict[int, BaseException] = {}
    for job, part in zip(jobs, copies, strict=True):
        own = [next(results) for _ in part]
        try:
            job.accept(own, untouched.get(job.structure.index, ()))
        except Exception as error:  # an output of another shape than the schema says
            failures[job.structure.index] = error
    return failures


def quantities_of(chosen: Mapping[str, Quantity], atoms: Atoms, asked: Sequence[str] | None) -> dict[str, Quantity]:
    """The chosen quantities that this structure has."""
    return {name: q for name, q in chosen.items() if applies(q, atoms, asked=asked is not None and name in asked)}
