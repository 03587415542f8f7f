"""What can be watched: the atoms that a dynamics moves, inside filters, and not others that only look the same."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from ase import Atoms
from ase.parallel import world

from equiv_probe.errors import EquivProbeError


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
