"""Molecular dynamics with any calculator, watched: what ``equiv-probe md`` does."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units
from ase.io.trajectory import Trajectory
from ase.md import velocitydistribution
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from msgspec.structs import replace

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.dynamics.interruption import broken_off, not_begun, stop_where_not_finite
from equiv_probe_ase.dynamics.monitor import SymmetryMonitor
from equiv_probe_ase.dynamics.torn_trajectory import last_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from equiv_probe.results.report import Report

ENSEMBLES = ("nve", "langevin")


def molecular_dynamics(
    calculator: Calculator,
    atoms: Atoms,
    *,
    steps: int,
    timestep: float = 0.5,
    temperature: float = 300.0,
    ensemble: str = "nve",
    friction: float = 0.01,
    seed: int = 0,
    trajectory: Path | None = None,
    resume: bool = False,
    **watching: Any,
) -> Report:
    """Run dynamics under a :class:`SymmetryMonitor`.

    A structure without momenta gets thermal ones; where nothing holds it, without drift and (if isolated) without
    rotation, so that whatever spins later was made to.

    Args:
        calculator: that moves the atoms.
        atoms: to move; changed in place.
        steps: how many in all, those before a resumption included.
        timestep: fs.
        temperature: K, of the first momenta and of the thermostat.
        ensemble: ``"nve"``, velocity Verlet, or ``"langevin"``.
        friction: of Langevin dynamics, 1/fs.
        seed: of momenta and thermostat.
        trajectory: ASE's ``.traj``, a frame for each measurement.
        resume: go on from the last frame of ``trajectory``, and with the log.
        watching: options of the monitor: ``every``, ``plan``, ``log``, ``conservative_every``, ``progress``, ….

    Returns:
        The report; incomplete after Ctrl-C.

    Raises:
        EquivProbeError: an impossible option, nothing to resume from, or no forces at the first step.
        BrokenOffError: the calculator failed, or its forces were not finite, at a later step; with the report of what
            there is.
    """
    _require_possible(atoms, ensemble, temperature=temperature, steps=steps, timestep=timestep, friction=friction)
    every = watching.get("every", 100)
    if hasattr(calculator, "choose"):
        calculator.choose([atoms])  # by the structure that was given, so that a resumption goes on with the same plan
    start = _resumed(atoms, trajectory, every) if resume else 0
    if start == 0:
        _thermal(atoms, temperature, seed)
    atoms.calc = calculator
    _draw_on(calculator, start)
    stated: dict[str, Any] = {"ensemble": ensemble, "temperature": f"{temperature:g} K", "seed": seed}
    if getattr(calculator, "chosen", None):
        stated["averaged over"] = str(calculator.chosen)
    if ensemble == "nve":
        dyn: Any = VelocityVerlet(atoms, timestep * units.fs)
    else:
        stated["friction"] = f"{friction:g} /fs"
        bath = {"temperature_K": temperature, "friction": friction / units.fs, "fixcm": False}
        # Not the same noise again after a resumption.
        dyn = Langevin(atoms, timestep * units.fs, rng=np.random.default_rng((seed, start)), **bath)
    dyn.nsteps = start
    check = stop_where_not_finite(dyn, atoms)  # before the monitor looks, and before a frame is written
    monitor = SymmetryMonitor(dyn, atoms, resume=resume, first_step=start, **watching)
    with _frames(dyn, atoms, trajectory, every, start):
        ended_by = _run(dyn, atoms, steps - start, first=[check, monitor] if start else [])
    failure = None if isinstance(ended_by, KeyboardInterrupt) else ended_by
    if failure is not None and not monitor.log.rows:
        if isinstance(failure, EquivProbeError):
            raise failure
        raise not_begun(failure) from failure
    report = monitor.report()
    report = replace(report, protocol={**stated, **report.protocol}, complete=ended_by is None)
    if failure is not None:
        raise broken_off(failure, report, dyn.nsteps, trajectory) from failure
    return report


def _run(dyn: Any, atoms: Atoms, steps: int, *, first: Sequence[Callable[[], None]]) -> BaseException | None:
    """Run dynamics, and what ended them before their last step.

    ``first`` is called at the first instant where dynamics count on from a step, which they do not announce.
    """
    try:
        atoms.get_forces()
        for observe in first:
            observe()
        dyn.run(max(0, steps))
    except (KeyboardInterrupt, Exception, SystemExit) as error:  # calculators raise anything, and some packages exit
        return error
    return None


def _require_possible(atoms: Atoms, ensemble: str, *, temperature: float, **positive: float) -> None:
    """Raise for what no dynamics could be made of."""
    if not len(atoms):
        raise EquivProbeError("a structure without atoms", "at least one")
    for name, value in positive.items():
        if not value > 0:
            raise EquivProbeError(f"{name}={value}", "a positive number")
    if not temperature >= 0:
        raise EquivProbeError(f"temperature={temperature}", "a temperature in K")
    if ensemble not in ENSEMBLES:
        raise EquivProbeError(f"ensemble {ensemble!r}", " or ".join(ENSEMBLES))


def _thermal(atoms: Atoms, temperature: float, seed: int) -> None:
    """Thermal momenta for a structure that has none."""
    if "momenta" in atoms.arrays and atoms.arrays["momenta"].any():
        return
    # The newer name where there is one; the older is deprecated there.
    draw = getattr(velocitydistribution, "thermalize_momenta", velocitydistribution.MaxwellBoltzmannDistribution)
    draw(atoms, temperature_K=temperature, rng=np.random.default_rng(seed))
    if atoms.constraints or len(atoms) < 2 or temperature == 0:
        return
    velocitydistribution.Stationary(atoms)
    if not atoms.pbc.any() and len(atoms) > 2:
        velocitydistribution.ZeroRotation(atoms)


def _resumed(atoms: Atoms, trajectory: Path | None, every: int) -> int:
    """Put the last frame of a trajectory into the atoms; the step that it is of."""
    if trajectory is None or not trajectory.exists():
        raise EquivProbeError(
            "resume without a trajectory", "the trajectory of the run to go on with", "--traj md.traj"
        )
    count, last = last_frame(trajectory)
    if last is None:
        return 0
    if not np.array_equal(last.numbers, atoms.numbers):
        raise EquivProbeError(
            f"{trajectory} of {last.get_chemical_formula()}", f"a trajectory of {atoms.get_chemical_formula()}"
        )
    atoms.set_cell(last.cell)
    atoms.positions[:] = last.positions
    atoms.set_momenta(last.get_momenta(), apply_constraint=False)
    return (count - 1) * every


def _draw_on(calculator: Any, steps: int) -> None:
    """Let a calculator that draws rotations for every state go on with those that would have come next."""
    if steps and hasattr(calculator, "draws"):
        calculator.draws = steps


def _frames(dyn: Any, atoms: Atoms, trajectory: Path | None, every: int, start: int) -> Any:
    """Write a frame for each measurement, as a context manager."""
    if trajectory is None:
        return nullcontext()
    trajectory.parent.mkdir(parents=True, exist_ok=True)
    writer = Trajectory(trajectory, "a" if start else "w", atoms)
    dyn.attach(writer.write, every)
    return writer
