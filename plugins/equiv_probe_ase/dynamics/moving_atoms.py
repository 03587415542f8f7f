"""The atoms that a dynamics moves: which they are, and whether somebody else moved them between two runs."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.md.verlet import VelocityVerlet
from ase.parallel import world

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Mapping

TOLERANCE = 1e-6
"""Å; far above rounding, far below what moves or heats anything."""


def require_watchable(every: int, conservative_every: int | None) -> None:
    """Raise unless a monitor can work here.

    Raises:
        EquivProbeError: several MPI processes, which would write one log, or an impossible number of steps.
    """
    if world.size > 1:
        raise EquivProbeError(f"{world.size} MPI processes", "one process", "an audit of the trajectory afterwards")
    for name, steps in (("every", every), ("conservative_every", conservative_every or 0)):
        if not isinstance(steps, Integral) or steps < (name == "every"):
            raise EquivProbeError(f"{name}={steps}", "a number of steps", "SymmetryMonitor(dyn, atoms, every=100)")


def moving_atoms(dyn: Any, atoms: Any = None) -> Atoms:
    """The atoms that dynamics move, from inside filters.

    Raises:
        EquivProbeError: there are none, as in a band of several images, or those given are others.
    """
    found = _unwrapped(atoms if atoms is not None else getattr(dyn, "atoms", None))
    if not isinstance(found, Atoms):
        raise EquivProbeError(
            f"a {type(found).__name__} to watch", "ase.Atoms; of a band one image", "SymmetryMonitor(dyn, atoms)"
        )
    if not len(found):
        raise EquivProbeError("no atoms to watch", "one at least")
    own = _unwrapped(getattr(dyn, "atoms", None))
    if isinstance(own, Atoms) and own is not found:
        raise EquivProbeError(
            f"atoms ({found.get_chemical_formula()}) that are not those that {type(dyn).__name__} moves",
            "the same object",
            "SymmetryMonitor(dyn), which finds them",
        )
    return found


def _unwrapped(found: Any) -> Any:
    """What is inside filters."""
    for _ in range(10):
        if isinstance(found, Atoms) or not hasattr(found, "atoms"):
            break
        found = found.atoms
    return found


class BetweenRuns:
    """Remembers where a run ended, and says where velocity Verlet would have gone from there.

    Scripts draw new momenta, quench or displace atoms between two runs, or change the calculator. Of plain velocity
    Verlet the next positions are known beforehand; of other integrators, and with constraints, nothing is said.
    """

    def __init__(self, dyn: Any, atoms: Atoms) -> None:
        self.dyn, self.atoms = dyn, atoms
        self._end: tuple[Any, Any, Any] | None = None

    def observe(self, results: Mapping[str, Any]) -> bool:
        """Whether nothing but the dynamics moved the atoms since the step before, as far as can be known."""
        end, self._end = self._end, None
        joined = end is None or self._follows(*end)
        # Most runs are one run: nothing is copied at the steps in between.
        ends = self.dyn.nsteps >= getattr(self.dyn, "max_steps", np.inf)
        if ends and type(self.dyn) is VelocityVerlet and not self.atoms.constraints and "forces" in results:
            momenta = self.atoms.get_momenta()
            self._end = self.atoms.get_positions(), momenta, np.array(results["forces"])
        return joined

    def _follows(self, positions: Any, momenta: Any, forces: Any) -> bool:
        if positions.shape != self.atoms.positions.shape:
            return False
        step = self.dyn.dt
        expected = positions + step * (momenta + 0.5 * step * forces) / self.atoms.get_masses()[:, None]
        return bool(np.abs(expected - self.atoms.positions).max() < TOLERANCE * (1 + np.abs(expected).max()))
