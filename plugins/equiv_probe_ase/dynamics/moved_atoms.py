"""Whether somebody moved the atoms between two calls of ``run()``, which no observer sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.md.verlet import VelocityVerlet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase import Atoms

TOLERANCE = 1e-6
"""Å; far above rounding, far below what moves or heats anything."""


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
