"""What broken symmetry does to a trajectory, watched while it runs: an observer for any of ASE's dynamics."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import units
from ase.md.md import MolecularDynamics

from equiv_probe.deprecation import warn
from equiv_probe.errors import EquivProbeError
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe_ase.calculators.by_name import as_calculator
from equiv_probe_ase.dynamics.budget import Budget, known_results, mechanics
from equiv_probe_ase.dynamics.frame_symmetry import PLAN, FrameSymmetry
from equiv_probe_ase.dynamics.frames import FramesFile, WorstFrames
from equiv_probe_ase.dynamics.log import DynamicsLog, plain
from equiv_probe_ase.dynamics.log_reading import atoms_of
from equiv_probe_ase.dynamics.moving_atoms import BetweenRuns, moving_atoms, require_watchable
from equiv_probe_ase.dynamics.report import dynamics_report
from equiv_probe_ase.dynamics.rows import frame_of, info_of, protocol_of, resumed_budget, row_of
from equiv_probe_ase.dynamics.run_notes import RunNotes
from equiv_probe_ase.dynamics.table import RunningTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from ase.optimize.optimize import BaseDynamics

    from equiv_probe.results.report import Report
    from equiv_probe_ase.evaluators.conservative import Defect
    from equiv_probe_ase.structures.quantities import Quantity


class SymmetryMonitor:
    """Attaches to ASE dynamics or an optimiser; measures its budget at every step and its symmetry at some.

    Every step, from what the dynamics has computed anyway: energies, net force and torque, and whether they account
    for momentum and angular momentum. Every ``every`` steps the twirl, on copies of atoms and calculator. Every
    ``conservative_every`` steps whether the forces are the energy's gradient, and what drift that makes. The trajectory
    is bit for bit what it is without.

    Args:
        dyn: any of ASE's dynamics or optimisers; the monitor attaches itself.
        atoms: that move; None takes those of ``dyn``, also from inside a cell filter.
        every: steps between two measurements of symmetry, and two rows of the log; the first is at the first step.
        plan: of the rotations; None is four independent ones, which cost least.
        log: ``.csv``, or ``.jsonl``, which ``ase.io`` reads as structures; None writes none.
        conservative_every: steps between two measurements of non-conservative forces; None is 10 ``every``, 0 never.
        properties: ASE's names; None takes energy, forces and (if periodic) stress, as far as there are any.
        center: of rotation: ``"centroid"``, ``"origin"``, ``"cell"`` or a point (Å).
        calculator: that is measured, or its name as on the command line; None takes a copy of the one in the atoms.
        batched: False calls the calculator once for each rotation even if its model takes batches.
        atoms_per_call: most atoms in one model pass.
        resume: continue a log of the same run: rows and steps are counted on.
        first_step: of this run; None goes on after the last row of a resumed log, or where ``dyn.nsteps`` is.
        trajectory: a file for the measured frames with what was measured in ``info``, ``.extxyz`` or ``.traj``.
        annotate: put it into ``atoms.info`` too, as ``equiv_…``.
        progress: print a running table on stderr: each row in a terminal, ever fewer in a log.
        name: of the model, for the report.
        quiet: an older name of the opposite of ``progress``.

    Raises:
        EquivProbeError: an impossible option, or a file of another run.

    >>> from ase.build import molecule
    >>> from ase.calculators.emt import EMT
    >>> from ase.md.verlet import VelocityVerlet
    >>> atoms = molecule("CO")
    >>> atoms.calc = EMT()
    >>> dyn = VelocityVerlet(atoms, 1.0 * units.fs)
    >>> monitor = SymmetryMonitor(dyn, atoms, every=10, log=None)
    >>> dyn.run(20)
    True
    >>> monitor.report()["forces"].verdict
    'round-off'
    """

    def __init__(
        self,
        dyn: BaseDynamics,
        atoms: Atoms | None = None,
        every: int = 100,
        plan: PlanLike | None = None,
        log: str | Path | None = "monitor.csv",
        *,
        conservative_every: int | None = None,
        properties: Sequence[str] | None = None,
        center: str | Sequence[float] = "centroid",
        calculator: Calculator | str | None = None,
        batched: bool = True,
        atoms_per_call: int | None = None,
        resume: bool = False,
        first_step: int | None = None,
        trajectory: str | Path | None = None,
        annotate: bool = False,
        progress: bool = True,
        name: str | None = None,
        quiet: bool | None = None,
    ) -> None:
        if quiet is not None:
            warn("the argument quiet of SymmetryMonitor() is now called progress, and means the opposite")
            progress = not quiet
        require_watchable(every, conservative_every)
        self.dyn, self.every = dyn, every
        self.atoms = moving_atoms(dyn, atoms)
        self.plan = rotation_plan(plan) or PLAN
        self.conservative_every = 10 * every if conservative_every is None else conservative_every
        self.symmetry = FrameSymmetry(self.plan, properties, center, batched, atoms_per_call)
        self.log = DynamicsLog(Path(log) if log is not None else None)
        self.budget, self.run = Budget(), RunNotes()
        self.seconds, self.measuring_seconds, self.began = 0.0, 0.0, math.nan
        self.name = name
        self._calculator = calculator if calculator is None else as_calculator(calculator)
        self._resume, self._first_step = resume, first_step
        self.frames_file, self.worst = FramesFile(trajectory), WorstFrames()
        self._between = BetweenRuns(dyn, self.atoms)
        self._moved_by: Any = None
        self._annotate, self._table = annotate, RunningTable(shown=progress)
        self._offset, self._last = 0, -1
        self._records: list[dict[str, Any]] = []
        self.quantities: dict[str, Quantity] = {}
        dyn.attach(self, 1)

    @property
    def step(self) -> int:
        """Number of the present step, counted over restarts."""
        return self._offset + int(self.dyn.nsteps)

    @property
    def timestep(self) -> float:
        """Of the dynamics, fs; NaN of an optimiser."""
        return float(self.dyn.dt) / units.fs if self.is_dynamics else math.nan

    @property
    def is_dynamics(self) -> bool:
        """Whether there is a time: an optimiser has none, and its momenta mean nothing."""
        return isinstance(self.dyn, MolecularDynamics)

    @property
    def model(self) -> Any:
        """The calculator whose symmetry is measured."""
        return self._calculator if self._calculator is not None else self.atoms.calc

    def __call__(self) -> None:
        """Observe the present step; ASE calls this."""
        began = time.perf_counter()
        if math.isnan(self.began):
            self.began = began
            self._begin()
            self.measuring_seconds = self.seconds = time.perf_counter() - began
            began = time.perf_counter()
        if self.step == self._last:  # a second run() begins where the first ended
            return
        results = known_results(self.atoms)
        joined = self._between.observe(results)
        if self.atoms.calc is not self._moved_by:
            self._take_up(self.atoms.calc)
            joined = False
        elif not joined:
            self.run.at(self.step, "the atoms were moved, heated or stopped by something else before step")
        self.budget.add(mechanics(self.atoms, results), self.timestep, joined=joined)
        self._last = self.step
        if self.step % self.every == 0 or self.budget.instants == 1:
            free = time.perf_counter()
            self._row(results)
            self.measuring_seconds += time.perf_counter() - free
        self.seconds += time.perf_counter() - began

    def detach(self) -> None:
        """Watch no longer."""
        self.dyn.observers[:] = [entry for entry in self.dyn.observers if entry[0] is not self]

    def report(self) -> Report:
        """What was found so far, with its history; ``.save("report.json")`` keeps it."""
        return dynamics_report(self)

    @property
    def records(self) -> list[dict[str, Any]]:
        """What was measured at each frame, as an audit's report has it: numbers by atom only of the worst frames."""
        return self.worst.records(self._records)

    @property
    def now(self) -> dict[str, Any]:
        """The row of the step that was observed last, without what costs something."""
        return row_of(self._last, self.budget)

    def _begin(self) -> None:
        self.log.begin(protocol_of(self), resume=self._resume, first_step=self._first_step)
        first = self._first_step
        rows, self.log.rows = self.log.rows, [plain(row) for row in self.log.rows]
        for row in rows:
            if isinstance(row.get("record"), dict):
                self._records.append(self.worst.add(row["record"], atoms_of(row)))
        if rows:
            self.budget = resumed_budget(rows)
            last = int(rows[-1]["step"])
            first = first if first is not None else max(last, int(self.dyn.nsteps))
            self.run.notes.append(f"continued at step {first} from {len(rows)} rows up to step {last}")
            self.budget.time += (first - last) * self.timestep
            self._last = last if first == last else -1
        self.frames_file.begin(self.dyn, resume=self._resume, last=int(rows[-1]["step"]) if rows else None)
        self._offset = 0 if first is None else first - int(self.dyn.nsteps)
        if self._last == self.step:  # its row is there; the sums go on from its instant
            self.budget.resume_at(mechanics(self.atoms, known_results(self.atoms)))
        self._moved_by = self.atoms.calc
        self.symmetry.prepare(self.model, self.atoms)
        self.quantities = dict(self.symmetry.quantities)

    def _take_up(self, calculator: Any) -> None:
        """Another calculator moves the atoms from now on."""
        self._moved_by = calculator
        self.run.at(self.step, f"another calculator, {type(calculator).__name__}, moves the atoms from step")
        if self._calculator is not None:
            return
        try:
            self.symmetry.prepare(calculator, self.atoms)
        except EquivProbeError as error:
            self.run.failed(self.step, error)
        self.quantities |= self.symmetry.quantities

    def _row(self, results: Any) -> None:
        record, defect = self._measured()
        row = row_of(self.step, self.budget, record, defect)
        self.log.add(row | {"frame": frame_of(self.atoms, results), "record": record} if self.log.keeps_frames else row)
        if record is not None:
            self._records.append(self.worst.add(record, self.atoms))
        self._table.show(row)
        found = info_of(row)
        if self._annotate:
            self.atoms.info.update(found)
        self.frames_file.add(self.atoms, results, found)

    def _measured(self) -> tuple[dict[str, Any] | None, Defect | None]:
        """The twirl and, if due, the defect; a frame that fails later than the first is noted, and the run goes on."""
        record = None
        try:
            record = self.symmetry.measure(self.model, self.atoms, self.step)
            due = self.conservative_every and self.step % self.conservative_every == 0
            return record, self.symmetry.defect(self.model, self.atoms, self.step) if due else None
        except Exception as error:
            if not self.log.rows:  # at the first frame something is set up wrongly
                raise
            self.run.failed(self.step, error)
            return record, None
