"""Orbits of structures through a calculator: many rotations and small structures in few model passes."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from equiv_probe.chunking import is_out_of_memory
from equiv_probe.errors import EquivProbeError
from equiv_probe.orbit import Orbit
from equiv_probe.representations import point
from equiv_probe.rotations import RotationPlan, haar
from equiv_probe.schema import Schema
from equiv_probe_ase.quantities import Quantity, applies

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray
    from torch import Tensor

    from equiv_probe_ase.evaluators import Evaluator
    from equiv_probe_ase.structures import Structure
    from equiv_probe_ase.turning import Turner

    Results = dict[str, NDArray[np.float64]]

ATOMS_PER_CALL = 4096
"""Atoms in one model pass where the evaluator names no better number; halved when memory runs out."""
GPU_ATOMS_PER_CALL = 16384
ROUND_TRIPS = 3


@dataclass
class Engine:
    """Evaluates turned structures in calls of bounded size.

    Args:
        evaluator: of the calculator.
        atoms_per_call: how many atoms go into one pass at most.
    """

    evaluator: Evaluator
    atoms_per_call: int = ATOMS_PER_CALL
    evaluations: int = 0
    calls: int = 0
    seconds: float = 0.0

    def run(self, structures: Sequence[Atoms], properties: Sequence[str]) -> Iterator[Results]:
        """Evaluate structures in order; running out of memory halves the call and carries on.

        Raises:
            EquivProbeError: one structure alone does not fit.
            Exception: whatever the calculator raises.
        """
        start = 0
        while start < len(structures):
            stop = self._stop(structures, start)
            failed = False
            began = time.perf_counter()
            try:
                results = self.evaluator.evaluate(structures[start:stop], properties)
            except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                failed = True
            self.seconds += time.perf_counter() - began
            if failed:
                if stop - start == 1:
                    raise EquivProbeError(
                        f"{len(structures[start])} atoms, which do not fit in memory", "a smaller structure"
                    )
                self.atoms_per_call = max(1, sum(map(len, structures[start:stop])) // 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            self.calls += 1
            self.evaluations += len(results)
            yield from results
            start = stop

    def _stop(self, structures: Sequence[Atoms], start: int) -> int:
        """End of the longest run from ``start`` that stays within ``atoms_per_call`` (at least one structure)."""
        if not self.evaluator.batched:
            return start + 1
        stop, atoms = start + 1, len(structures[start])
        while stop < len(structures) and atoms + len(structures[stop]) <= self.atoms_per_call:
            atoms += len(structures[stop])
            stop += 1
        return stop


@dataclass
class Job:
    """One structure on its way: what was evaluated so far, and how to turn it into an orbit.

    Args:
        structure: to audit.
        quantities: to measure on it.
        plan: the rotation plan; replicates are added to by :meth:`more`.
        turner: of the structure.
        precision: of the model, for the round trips; None finds out from the first results.
    """

    structure: Structure
    quantities: Mapping[str, Quantity]
    plan: RotationPlan
    turner: Turner
    precision: torch.dtype
    rotations: Tensor = field(init=False)
    fresh: Tensor = field(init=False)
    values: dict[str, list[Tensor]] = field(default_factory=dict)
    identity: dict[str, Tensor] = field(default_factory=dict)
    round_trips: dict[str, Tensor] = field(default_factory=dict)
    repeats: dict[str, Tensor] = field(default_factory=dict)
    resolution: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Rotations depend on the seed and the structure's place alone: a resumed audit draws the same ones.
        self._generator = self.plan.generator(self.structure.index)
        self.rotations = self.fresh = self.plan.rotations(self._generator)

    def more(self, replicates: int) -> None:
        """Ask for further replicates."""
        self.fresh = RotationPlan(self.plan.design, replicates, self.plan.improper).rotations(self._generator)
        self.rotations = torch.cat([self.rotations, self.fresh])

    def copies(self) -> list[Atoms]:
        """The copies that have still to be evaluated, round trips first if they are not there yet."""
        turned = self.turner.copies(self.fresh.reshape(-1, 3, 3))
        if self.identity:
            return turned
        trips = haar(ROUND_TRIPS, self.plan.generator(self.structure.index, 1))
        return [*self.turner.round_trips(trips, self.precision), *turned]

    def accept(self, results: Sequence[Results], plain: Sequence[Results]) -> None:
        """Take the results of :meth:`copies`, in order, and, at first, of two evaluations of the structure as it is."""
        turned = results
        if not self.identity:
            self.identity = {name: rows[0] for name, rows in self._stack(plain[:1]).items()}
            self.resolution = {
                name: float(value.abs().max()) * torch.finfo(stored_precision(plain[0][name])).eps
                for name, value in self.identity.items()
            }
            self.repeats = self._stack(plain[1:])
            self.round_trips = self._stack(results[:ROUND_TRIPS])
            turned = results[ROUND_TRIPS:]
        flat = self.fresh.reshape(-1, 3, 3)
        for name, raw in self._stack(turned).items():
            back = self.quantities[name].representation.turn_back(raw, flat, self._pivot)
            self.values.setdefault(name, []).append(back.reshape(*self.fresh.shape[:2], *back.shape[1:]))

    @property
    def _pivot(self) -> Tensor:
        return torch.as_tensor(self.turner.pivot())

    def _stack(self, results: Sequence[Results]) -> dict[str, Tensor]:
        """Results in the reported units, ``(C, *S)`` by quantity."""
        atoms = self.structure.atoms
        return {
            name: torch.from_numpy(np.stack([quantity.values(one[name], atoms) for one in results]))
            for name, quantity in self.quantities.items()
        }

    def orbit(self) -> Orbit:
        """The orbit so far.

        Raises:
            EquivProbeError: a prediction is not finite.
        """
        plan = RotationPlan(self.plan.design, len(self.rotations), self.plan.improper, self.plan.seed)
        outputs = {name: quantity.representation for name, quantity in self.quantities.items()}
        orbit = Orbit.from_values(
            {name: torch.cat(parts) for name, parts in self.values.items()},
            self.identity,
            Schema({"positions": point}, outputs),
            plan,
            self.rotations,
            round_trips=self.round_trips,
            repeats=self.repeats,
            centers=dict.fromkeys(outputs, self._pivot),
            units={name: quantity.unit for name, quantity in self.quantities.items()},
        )
        for name in self.quantities:
            orbit.require_finite(name)
        return orbit


def evaluate_jobs(engine: Engine, jobs: Sequence[Job]) -> dict[int, Exception]:
    """Evaluate what every job still lacks, in as few calls as possible.

    A call that fails is made again on either half of its jobs, so that one bad structure costs its neighbours nothing.

    Returns:
        The exception of every job that failed, by the structure's index.
    """
    failures: dict[int, Exception] = {}
    alike: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        alike.setdefault(tuple(job.quantities), []).append(job)
    for properties, group in alike.items():
        failures |= _evaluate_alike(engine, group, properties)
    return failures


def _evaluate_alike(engine: Engine, jobs: Sequence[Job], properties: Sequence[str]) -> dict[int, Exception]:
    """:func:`evaluate_jobs` for jobs with the same properties."""
    try:
        copies = [job.copies() for job in jobs]
        new = [job for job in jobs if not job.identity]
        results = iter(list(engine.run([atoms for part in copies for atoms in part], properties)))
        # Two calls of the same composition: within one, repeats could share an error; with other neighbours in the
        # batch, the order of sums would differ, and that is rounding, not non-determinism.
        plain = [job.structure.atoms for job in new]
        twice = list(zip(*(list(engine.run(plain, properties)) for _ in range(2)), strict=True))
    except Exception as error:  # calculators raise anything
        if len(jobs) == 1:
            return {jobs[0].structure.index: error}
        half = len(jobs) // 2
        return _evaluate_alike(engine, jobs[:half], properties) | _evaluate_alike(engine, jobs[half:], properties)
    untouched = {job.structure.index: pair for job, pair in zip(new, twice, strict=True)}
    failures: dict[int, Exception] = {}
    for job, part in zip(jobs, copies, strict=True):
        own = [next(results) for _ in part]
        try:
            job.accept(own, untouched.get(job.structure.index, ()))
        except Exception as error:  # an answer of another shape than the schema says
            failures[job.structure.index] = error
    return failures


def quantities_of(chosen: Mapping[str, Quantity], atoms: Atoms, asked: Sequence[str] | None) -> dict[str, Quantity]:
    """The chosen quantities that this structure has."""
    return {name: q for name, q in chosen.items() if applies(q, atoms, asked=asked is not None and name in asked)}


def trial(
    evaluator: Evaluator, chosen: Mapping[str, Quantity], structures: Sequence[Structure]
) -> tuple[dict[str, Quantity], Results]:
    """What a calculator really gives: some list properties that they never compute.

    Args:
        evaluator: of the calculator.
        chosen: what it claims to have.
        structures: the first of the smallest few that can be evaluated at all, and has the property, decides.

    Returns:
        The quantities that it gave or that could not be tried, and the values that it gave.
    """
    smallest = sorted(structures, key=lambda s: len(s.atoms))
    crystals = [structure for structure in smallest if structure.atoms.pbc.all()]  # only they have a stress
    tried: set[str] = set()
    given: Results = {}
    for structure in (*smallest[:5], *crystals[:5]):
        fresh = [n for n, q in chosen.items() if n not in tried and applies(q, structure.atoms, asked=False)]
        # What was given before comes along: it tells a structure that fails from a property that is not there.
        found = _given(evaluator, structure.atoms, [*given, *fresh]) if fresh else {}
        if found:
            tried.update(fresh)
            given = found | given
    return {name: quantity for name, quantity in chosen.items() if name in given or name not in tried}, given


def _given(evaluator: Evaluator, atoms: Atoms, names: Sequence[str]) -> Results:
    """As many of the properties as an evaluator gives, together or one by one."""
    found: Results = {}
    for together in (names, *([name] for name in names)):
        try:
            found |= evaluator.evaluate([atoms], together)[0]
        except Exception:  # the reason comes up again, and is reported, when the structure is measured
            continue
        if len(found) == len(names):
            break
    return found


def default_atoms_per_call(calculator: object, evaluator: Evaluator) -> int:
    """Atoms in one model pass: what was measured to be fast on the CPU, as many as fit elsewhere."""
    on_gpu = any(p.device.type != "cpu" for module in _modules(calculator) for p in module.parameters())
    return GPU_ATOMS_PER_CALL if on_gpu else evaluator.cpu_atoms_per_call or ATOMS_PER_CALL


def _modules(calculator: object) -> list[torch.nn.Module]:
    """The torch modules that a calculator holds, alone or in lists."""
    held = [v for value in vars(calculator).values() for v in (value if isinstance(value, list | tuple) else [value])]
    return [value for value in held if isinstance(value, torch.nn.Module)]


def weights_digest(calculator: object) -> str:
    """A digest of the parameters of the torch modules that a calculator holds; empty if it holds none."""
    digest = hashlib.sha256()
    parameters = [item for module in _modules(calculator) for item in module.named_parameters()]
    for name, parameter in parameters:
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16] if parameters else ""


def model_precision(calculator: object, results: Mapping[str, NDArray[np.float64]] | None = None) -> torch.dtype:
    """The precision a calculator works in.

    From its own ``dtype``, from the parameters of a torch module it holds, else from its results: numbers that are all
    exactly representable in float32 were computed in it.
    """
    own = getattr(calculator, "dtype", None)
    if isinstance(own, torch.dtype):
        return own
    floats = [p.dtype for module in _modules(calculator) for p in module.parameters() if p.is_floating_point()]
    if floats:
        return floats[0]
    for name in ("forces", "energies", "energy"):
        values = (results or {}).get(name)
        if values is not None and np.any(values):
            return stored_precision(values)
    return torch.float64


def stored_precision(values: NDArray[np.float64]) -> torch.dtype:
    """The precision that numbers were rounded to last: float32 if all of them are exactly representable in it."""
    return torch.float32 if np.array_equal(values.astype(np.float32), values) else torch.float64
