"""The twirl at one frame of a trajectory, on a copy of the atoms and of the calculator."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.isolation import isolated
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe_ase.auditing.evaluation import evaluate_jobs, quantities_of
from equiv_probe_ase.auditing.job import Job
from equiv_probe_ase.auditing.record import record
from equiv_probe_ase.calculators.batch_check import trusted
from equiv_probe_ase.calculators.inspection import engine_for, model_precision, trial
from equiv_probe_ase.calculators.private_copy import networks, own_copy, own_directories
from equiv_probe_ase.evaluators.conservative import Defect, defect
from equiv_probe_ase.evaluators.evaluator import described
from equiv_probe_ase.structures.control_copies import ControlCopies
from equiv_probe_ase.structures.loading import Structure
from equiv_probe_ase.structures.quantities import QUANTITIES, adapted, choose
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from equiv_probe.estimation.controls import Control
    from equiv_probe_ase.evaluators.engine import Engine
    from equiv_probe_ase.structures.quantities import Quantity

PLAN = RotationPlan("haar", replicates=4)
"""Four rotations of a frame, the fewest with error bars: a trajectory has many frames, and each draws its own."""
DEFAULTS = ("energy", "forces", "stress")
FLOOR_EVERY = 10
"""Measurements between two of the round-off floor, which changes little along a trajectory."""


@dataclass
class FrameSymmetry:
    """Measures frames of one trajectory.

    Args:
        plan: of the rotations; each frame draws its own, by its step.
        properties: ASE's names; None takes energy, forces and (if periodic) stress, as far as there are any.
        center: of rotation, as in :func:`equiv_probe_ase.audit`.
        batched: whether to use the model's batched evaluation.
        atoms_per_call: most atoms in one model pass; None is a default of the model's.
    """

    plan: RotationPlan
    properties: Sequence[str] | None = None
    center: str | Sequence[float] = "centroid"
    batched: bool = True
    atoms_per_call: int | None = None
    quantities: dict[str, Quantity] = field(default_factory=dict)
    precision: torch.dtype = torch.float64
    evaluator: str = ""
    controls: list[Control] = field(default_factory=list)
    shared: tuple[str, ...] = ()
    evaluations: int = 0
    _measured: int = 0
    _is_coupled: bool = False
    _conserved: str = ""
    _resolution: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.plan.is_random or self.plan.R < 2:
            raise EquivProbeError(
                str(self.plan), "at least two randomly rotated replicates", 'RotationPlan("klein", 4)'
            )

    def prepare(self, calculator: Calculator, atoms: Atoms) -> None:
        """Find out what the calculator really gives, and in which precision.

        Raises:
            EquivProbeError: nothing to measure.
        """
        self._is_coupled = False
        with self._engine(calculator) as (engine, twin):
            start = Structure(0, "the first frame", atoms.copy())
            implemented = _implemented(calculator)
            asked = self.properties or ([n for n in DEFAULTS if n in implemented] or None)
            chosen = choose(implemented, asked)
            # Some list a free energy that they never give.
            tried = chosen | {n: QUANTITIES[n] for n in ("free_energy",) if n in implemented and n not in chosen}
            given, sample = trial(engine.evaluator, tried, [start])
            self._conserved = next((n for n in ("free_energy", "energy") if n in given and n in sample), "")
            given = {name: quantity for name, quantity in given.items() if name in chosen}
            self.quantities = adapted(chosen if self.properties else given, sample)
            self.precision = model_precision(calculator, sample)
            batch = engine.evaluator.batched
            evaluator, self.controls = trusted(engine.evaluator, twin, self.quantities, [start], self.precision)
            self._is_coupled = batch and not evaluator.batched
            self.evaluator = described(evaluator)

    def measure(self, calculator: Calculator, atoms: Atoms, step: int) -> dict[str, Any]:
        """The record of one frame, as an audit writes it, with the twirled energy; its rotations depend on ``step``.

        Raises:
            Exception: whatever the calculator raises on a rotated structure.
        """
        structure = Structure(step, f"step {step}", atoms.copy())
        chosen = quantities_of(self.quantities, structure.atoms, self.properties)
        rotator = Rotator(structure.atoms, self.center)
        deformed = ControlCopies(structure.atoms, (self.plan.seed, step), moves=False)  # where there is a floor too
        job = Job(structure, chosen, self.plan, rotator, self.precision, deformed, seed=step)
        with self._engine(calculator) as (engine, _):
            if self._measured % FLOOR_EVERY:
                # Not what the dynamics has: a wavefunction that started from the last step's is converged elsewhere.
                job.accept_known(next(engine.run([structure.atoms], list(chosen))), self._resolution)
            failed = evaluate_jobs(engine, [job])
        if failed:
            raise failed[step]
        self._measured += 1
        self._resolution = job.resolution
        found = record(job, "mse")
        if "energy" in chosen:
            means = job.orbit().means["energy"] * len(atoms) / chosen["energy"].factor
            error = float(means.std() / math.sqrt(len(means))) if len(means) > 1 else math.nan
            found["energy_twirl"] = [float(means.mean()), error]
        return found

    def defect(self, calculator: Calculator, atoms: Atoms, step: int) -> Defect | None:
        """Whether the forces are the energy's gradient at one frame; None where there is no energy or no force."""
        if "forces" not in self.quantities or not self._conserved:
            return None
        frame = atoms.copy()
        frame.set_constraint()
        # One replicate of the design: unbiased, and the spread over frames says how well the mean is known.
        rotations = self.plan.rotations(self.plan.generator(step, 2))[0]
        rotated = Rotator(frame, self.center).copies(rotations)
        generator = np.random.default_rng((self.plan.seed, step))
        with self._engine(calculator) as (engine, _):
            return defect(engine, frame, generator, energy=self._conserved, precision=self.precision, rotated=rotated)

    @contextmanager
    def _engine(self, calculator: Calculator) -> Iterator[tuple[Engine, Calculator]]:
        """An engine on a copy of the calculator, made anew (the user may have changed its parameters), and the copy."""
        twin, shared = own_copy(calculator)
        self.shared = tuple(shared)
        with isolated(*networks(calculator)), own_directories(twin):
            engine = engine_for(twin, batched=self.batched and not self._is_coupled, atoms_per_call=self.atoms_per_call)
            yield engine, twin
        self.evaluations += engine.evaluations


def _implemented(calculator: Any) -> list[str]:
    """ASE's names of what a calculator gives.

    Raises:
        EquivProbeError: it does not say.
    """
    found = getattr(calculator, "implemented_properties", None)
    if found is None:
        raise EquivProbeError(
            f"a {type(calculator).__name__} without implemented_properties",
            "one of ASE's calculators",
            "SymmetryMonitor(..., calculator=...)",
        )
    return list(found)
