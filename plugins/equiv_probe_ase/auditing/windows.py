"""Structures in windows: evaluated together, more replicates where they are needed, failures kept apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.auditing.cell_check import note_transposed_cell
from equiv_probe_ase.auditing.evaluation import evaluate_jobs, quantities_of
from equiv_probe_ase.auditing.job import JOLTS, MORE_ROUND_TRIPS, ROUND_TRIPS, Job
from equiv_probe_ase.auditing.judgement import is_drawn, judged, rounding_in, rounding_of, varies
from equiv_probe_ase.auditing.record import record
from equiv_probe_ase.auditing.worst_structures import shown
from equiv_probe_ase.structures.control_copies import ControlCopies
from equiv_probe_ase.structures.loading import printable
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe_ase.auditing.options import Options
    from equiv_probe_ase.auditing.subject import Findings, Subject
    from equiv_probe_ase.structures.loading import Structure

    Window = Sequence[Structure]

WINDOW = 32
"""Structures that are evaluated and written to the journal together, at most."""
PASSES = 32
"""Full model passes of a window, at most: beside them it takes two small ones, of the structures as they are."""
AT_LEAST = 16
"""Windows, where there are as many structures."""
UNCERTAIN = (3.0, 300.0)
"""Times the floor: errors between are judged by it, and it is known from three round trips to a factor of ten or so."""
STEPS = 4
"""Rotations to one distinct error, of an output that goes from one of a few values to another: no smooth one does."""


def windows(structures: Sequence[Structure], copies: int, findings: Findings) -> list[list[Structure]]:
    """Structures that are evaluated together: enough to fill model passes, few enough to lose little on a kill.

    They follow from all structures, whoever measures them: an output's last digits may depend on what shares its batch.
    """
    found: list[list[Structure]] = []
    atoms = 0
    limit = PASSES * findings.atoms_per_call if findings.batched else 1
    most = min(WINDOW, len(structures) // AT_LEAST)  # even few structures are shared out
    for structure in structures:
        cost = copies * len(structure.atoms)
        if not found or atoms + cost > limit or len(found[-1]) >= most:
            found.append([])
            atoms = 0
        found[-1].append(structure)
        atoms += cost
    return found


def part_of(found: Sequence[Window], part: str | None) -> Sequence[Window]:
    """The windows of one part, such as ``"3/16"``: every sixteenth; all of them for None.

    Raises:
        EquivProbeError: no such part, or fewer windows than parts.
    """
    if part is None:
        return found
    place, slash, count = part.partition("/")
    if not (slash and place.isdecimal() and count.isdecimal() and 1 <= int(place) <= int(count)):
        raise EquivProbeError(f"part {part!r}", "one of so many, counted from 1", "--part 3/16")
    if int(count) > len(found):
        structures = sum(map(len, found))
        raise EquivProbeError(f"part {part} of {structures} structures", f"at most {len(found)} parts", "fewer parts")
    return found[int(place) - 1 :: int(count)]


def measure_window(subject: Subject, window: Sequence[Structure], options: Options) -> list[dict[str, Any]]:
    """Records of a window's structures, with an ``"error"`` where one failed; the last says what all have cost."""
    engine = subject.engine
    before = engine.evaluations, engine.calls
    open_jobs: list[Job] = []
    finished: dict[int, dict[str, Any]] = {}
    for structure in window:
        try:
            open_jobs.append(_job(structure, subject, options))
        except EquivProbeError as error:
            finished[structure.index] = failure(structure, error)
    while open_jobs:
        failed = evaluate_jobs(engine, open_jobs)
        again = []
        for job in open_jobs:
            index = job.structure.index
            try:
                if index in failed:
                    raise failed[index]
                finished[index] = record(job, options.loss)
            except (Exception, SystemExit) as error:  # whatever a calculator raises on a structure stays with it
                finished[index] = failure(job.structure, error)
                continue
            if _asks_for_more(finished[index], job, options):
                again.append(job)
            else:
                note_transposed_cell(finished[index], job.structure, subject, options)
                finished[index] |= shown(job.structure.atoms)
        open_jobs = again
    records = [finished[structure.index] for structure in window]
    records[-1]["work"] = [engine.evaluations - before[0], engine.calls - before[1]]
    return records


def _job(structure: Structure, subject: Subject, options: Options) -> Job:
    """What is to be evaluated of a structure, or EquivProbeError if nothing can be."""
    atoms = structure.atoms
    rotator = Rotator(atoms, options.center, options.extra)
    own = quantities_of(subject.quantities, atoms, options.asked)
    if len(atoms) == 0:
        raise EquivProbeError("an empty structure", "at least one atom")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise EquivProbeError("positions or a cell with NaN or infinities", "finite ones")
    controls = ControlCopies(atoms, (options.plan.seed, structure.seed), moves=options.is_moved)
    return Job(structure, own, options.plan, rotator, subject.precision, controls)


def failure(structure: Structure, error: BaseException) -> dict[str, Any]:
    """The record of a structure that could not be measured."""
    reason = str(error) if isinstance(error, EquivProbeError) else f"{type(error).__name__}: {error}"
    if isinstance(error, np.linalg.LinAlgError | ZeroDivisionError) and structure.atoms.cell.rank < 3:
        reason += " (there is no cell, and this model may need one: --vacuum 6, or vacuum=6.0, puts a box around it)"
    return {
        "key": structure.key,
        "index": structure.index,
        "name": structure.name,
        "error": printable(" ".join(reason.split())[:500]),
    }


def _asks_for_more(found: Mapping[str, Any], job: Job, options: Options) -> bool:
    """Ask for what the numbers still need, if anything: a surer floor first, since it says when to stop."""
    each = found["quantities"].values()
    suspicious = any(is_drawn(values) or not rounding_of([values]).explains(values["floor"] or 0.0) for values in each)
    if suspicious and not job.again:  # two calls at one input may be alike by chance, but not at all rotations
        job.twice()
        return True
    trips, jolts = (0, 0) if varies(each) else _of_the_floor(found, job, options)
    if trips or jolts:
        job.more_of_the_floor(trips=trips, jolts=jolts)
        return True
    extra = _replicates_to_add(found, job, options)
    if extra:
        job.more(extra)
    return bool(extra)


def _of_the_floor(found: Mapping[str, Any], job: Job, options: Options) -> tuple[int, int]:
    """Further round trips where three leave open what is rounding, and jolted copies where it is not only that."""
    trips = jolts = 0
    for name, values in found["quantities"].items():
        floor = rounding_in(values, calls=False)
        if name not in job.jolts and not rounding_of([values]).explains(floor):
            jolts = JOLTS
        in_question = UNCERTAIN[0] * floor < values["rms"] < UNCERTAIN[1] * floor
        if options.few and (in_question or _steps(values, floor)) and len(job.round_trips.get(name, ())) == ROUND_TRIPS:
            trips = MORE_ROUND_TRIPS
    return trips, jolts


def _steps(values: Mapping[str, Any], floor: float) -> bool:
    """Whether an output takes a few values alone, as where a tie is decided anew: three round trips may agree on it."""
    errors = values["over_rotations"]
    return values["rms"] > UNCERTAIN[1] * floor and STEPS * len(set(errors)) <= len(errors)


def _replicates_to_add(found: Mapping[str, Any], job: Job, options: Options) -> int:
    """How many more replicates a structure needs: none at round-off, when tight enough, or at the limit."""
    if options.rel_err is None:
        return 0
    have, limit = len(job.rotations), options.max_rotations // options.plan.n
    if have < 4:  # no interval yet that could be tight
        return max(0, min(4, limit) - have)
    wanted = 0.0
    for name, values in found["quantities"].items():
        unit = job.quantities[name].unit
        stderr = math.nan if values["equiv_stderr"] is None else values["equiv_stderr"]
        relative = math.nan if values["relative"] is None else values["relative"]
        says = judged([values], values["equiv"], stderr, relative, unit)
        low, high = values["equiv_interval"]
        if says.kind in {"round-off", "non-deterministic"} or low is None or values["equiv"] <= 0:
            continue
        wanted = max(wanted, (high - low) / 2 / values["equiv"] / options.rel_err)
    if wanted <= 1 or have >= limit:
        return 0
    # The width falls as 1/√R; at most fourfold a round, since the width itself is an estimate.
    return min(max(1, round(have * min(wanted**2, 4)) - have), limit - have)
