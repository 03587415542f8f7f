"""What a run at constant energy fails to conserve: energy and angular momentum, and how fast they go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ase import units
from ase.md.verlet import VelocityVerlet

if TYPE_CHECKING:
    from ase import Atoms

    from equiv_probe_ase import TwirledCalculator

HBAR = units._hbar * units.J * units.s
"""ħ in ASE's units of angular momentum."""


EVERY = 10
"""Steps between the frames that are kept."""


@dataclass
class Conserved:
    """Energy (eV/atom) and angular momentum about the centre of mass (ħ) along a run; times in ps."""

    atoms: Atoms
    dynamics: VelocityVerlet
    times: list[float] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    momenta: list[np.ndarray] = field(default_factory=list)
    frames: list[Atoms] = field(default_factory=list)

    def __call__(self) -> None:
        """Look, as an observer of the dynamics."""
        self.times.append(self.dynamics.get_time() / (1000 * units.fs))
        self.energies.append(self.atoms.get_total_energy() / len(self.atoms))
        self.momenta.append(angular_momentum(self.atoms))
        if self.dynamics.nsteps % EVERY == 0:
            self.frames.append(self.atoms.copy())

    @property
    def energy_times(self) -> list[float]:
        """When the energies are of: every step, or the frames, if they were reckoned again."""
        return self.times if len(self.energies) == len(self.times) else self.times[::EVERY]

    def reckon_energies(self, average: TwirledCalculator) -> None:
        """Take the potential energy from an average: that of a random frame says more about the frame."""
        found = average.calculate_batch(self.frames, ["energy"])
        kinetic = [frame.get_kinetic_energy() for frame in self.frames]
        self.energies = [(one["energy"] + motion) / len(self.atoms) for one, motion in zip(found, kinetic, strict=True)]

    @property
    def energy_drift(self) -> float:
        """Slope of the energy, meV/atom/ps."""
        return 1e3 * float(np.polyfit(self.energy_times, self.energies, 1)[0])

    @property
    def energy_scatter(self) -> float:
        """Root mean square of the energy about its slope, meV/atom."""
        fit = np.polyval(np.polyfit(self.energy_times, self.energies, 1), self.energy_times)
        return 1e3 * float(np.sqrt(np.mean((np.array(self.energies) - fit) ** 2)))

    @property
    def momentum_drift(self) -> float:
        """Length of the slope of the angular momentum, ħ/ps."""
        return float(np.linalg.norm(np.polyfit(self.times, np.array(self.momenta), 1)[0]))

    @property
    def momentum_lost(self) -> np.ndarray:
        """|L(t) − L(0)| in ħ, ``(T,)``."""
        return np.linalg.norm(np.array(self.momenta) - self.momenta[0], axis=1)


def angular_momentum(atoms: Atoms) -> np.ndarray:
    """About the centre of mass and in its frame, ``(3,)`` in ħ: a drift of the whole does not count."""
    arms = atoms.positions - atoms.get_center_of_mass()
    velocities = atoms.get_velocities() - atoms.get_momenta().sum(0) / atoms.get_masses().sum()
    total: np.ndarray = np.cross(arms, atoms.get_masses()[:, None] * velocities).sum(0) / HBAR
    return total


def run_nve(atoms: Atoms, steps: int, femtoseconds: float) -> Conserved:
    """Velocity Verlet from the momenta that the atoms have; every step is looked at."""
    dynamics = VelocityVerlet(atoms, femtoseconds * units.fs)
    seen = Conserved(atoms, dynamics)
    dynamics.attach(seen)
    dynamics.run(steps)
    return seen
