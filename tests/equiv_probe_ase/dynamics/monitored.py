"""Force fields with known torque and known work, for the tests of the monitor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet

TILT = np.array([[1.1, 0.3, -0.2], [0.3, 0.8, 0.2], [-0.2, 0.2, 0.5]])
SPIN = np.array([[0.0, -0.5, 0.2], [0.5, 0.0, 0.1], [-0.2, -0.1, 0.0]])

TRANSFORMER = str(Path(__file__).parents[3] / "integrations/force_field/transformer.py") + ":calculator"


class LinearField(Calculator):
    """``E = ½ Σ x·S x`` and ``F = −B x`` for each atom about the origin, S the symmetric part of B.

    The antisymmetric part of B does work around loops: the forces are not the energy's gradient.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, matrix: np.ndarray) -> None:
        super().__init__()
        self.matrix = np.asarray(matrix)
        self.calls = 0

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        x, matrix = self.atoms.positions, self.matrix
        self.results = {"energy": 0.5 * float(np.einsum("ni,ij,nj->", x, matrix, x)), "forces": -x @ matrix.T}


def cluster(seed: int = 0, count: int = 5) -> Atoms:
    """A few atoms off the origin that move and rotate."""
    rng = np.random.default_rng(seed)
    atoms = Atoms("CHNOF"[:count], rng.normal(scale=1.2, size=(count, 3)) + np.array([0.4, -0.3, 0.2]))
    atoms.set_momenta(rng.normal(scale=0.4, size=(count, 3)))
    return atoms


def moving(calculator: Calculator, step: float = 0.5, seed: int = 0) -> tuple[Atoms, VelocityVerlet]:
    """A cluster under velocity Verlet, ``step`` fs."""
    atoms = cluster(seed)
    atoms.calc = calculator
    return atoms, VelocityVerlet(atoms, step * units.fs)


def fixed(atoms: Atoms) -> Atoms:
    """The same atoms, the first one held."""
    atoms.set_constraint(FixAtoms([0]))
    return atoms


def angular_momentum(atoms: Atoms) -> np.ndarray:
    """About the centre of mass, eV·fs, the plain way."""
    return np.cross(atoms.positions - atoms.get_center_of_mass(), atoms.get_momenta()).sum(0) / units.fs


def molecule_in_motion(name: str = "CH3OH") -> Atoms:
    atoms = molecule(name)
    rng = np.random.default_rng(3)
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    atoms.set_momenta(rng.normal(scale=0.3, size=atoms.positions.shape))
    return atoms


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    rng = np.random.default_rng(3)
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    atoms.set_momenta(rng.normal(scale=2.0, size=atoms.positions.shape))
    return atoms


def tilted_field() -> LinearField:
    """For the command line."""
    return LinearField(TILT)


class Breaks(LinearField):
    """Goes wrong at one call; copies of it do not.

    Args:
        at: the call.
        how: ``"raises"``, ``"nan"``, ``"exits"`` or ``"waits"``, long enough to be interrupted.
    """

    moving: ClassVar[int] = 0

    def __init__(self, at: int = 8, how: str = "raises") -> None:
        super().__init__(TILT)
        self.at, self.how = at, how
        Breaks.moving = id(self)

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        if id(self) != Breaks.moving or self.calls != self.at:
            return
        if self.how == "raises":
            raise RuntimeError("not converged\nin 100 cycles")
        if self.how == "exits":
            raise SystemExit(3)
        if self.how == "waits":
            print("waiting", flush=True)
            time.sleep(60)
        self.results["forces"][1] = np.nan
