r"""What moves an isolated structure as a whole, and whether the model's forces account for it.

Without external fields, forces that respect translation and rotation neither push nor spin a structure: net force and
net torque are zero, momentum and angular momentum stay what they are. With broken rotation they change, and

    L(t) − L(0) = ∫ τ dt,    τ = Σ_i (x_i − X) × F_i,    L = Σ_i (x_i − X) × p_i,

about the centre of mass X. Velocity Verlet satisfies the trapezoidal form of it exactly, step by step, for any forces
and any time step: positions move along the momenta of the half step, so that
``L_{n+1} = L_n + ½ Δt (τ_n + τ_{n+1})``, and likewise for the momentum with the net force. What remains is rounding
there; with other integrators it is O(Δt²), and what thermostats, barostats and constraints did.

Units are eV, Å and fs: torque eV, momentum eV·fs/Å, angular momentum eV·fs (ħ is 0.658 eV·fs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase import Atoms
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

HBAR = units._hbar / units._e * 1e15
"""eV·fs."""


@dataclass(frozen=True)
class Mechanics:
    """One instant of a trajectory; NaN where something was not computed, or is not defined.

    Attributes:
        potential: energy, with that of constraints that have one (springs), eV.
        kinetic: energy, eV.
        force: net force ``(3,)``, eV/Å.
        torque: net torque about the centre of mass ``(3,)``, eV. NaN of a periodic structure: it would depend on which
            image of each atom is counted.
        momentum: ``(3,)``, eV·fs/Å.
        angular: angular momentum about the centre of mass ``(3,)``, eV·fs; NaN of a periodic structure likewise.
    """

    potential: float
    kinetic: float
    force: Vector
    torque: Vector
    momentum: Vector
    angular: Vector

    @property
    def total(self) -> float:
        """Potential and kinetic energy, eV."""
        return self.potential + self.kinetic


def known_results(atoms: Atoms) -> Mapping[str, Any]:
    """A calculator's results if they are of these atoms as they are now; empty otherwise. Nothing is calculated."""
    calculator = atoms.calc
    results = getattr(calculator, "results", None)
    if not results:
        return {}
    # ASE's own question is the same one, at several times the cost; it has the last word.
    if not _same(getattr(calculator, "atoms", None), atoms) and calculator.calculation_required(atoms, []):
        return {}
    known: Mapping[str, Any] = results
    return known


def _same(remembered: Any, atoms: Atoms) -> bool:
    """Whether a calculator's atoms are where these are."""
    return (
        getattr(remembered, "positions", None) is not None
        and np.array_equal(remembered.positions, atoms.positions)
        and np.array_equal(remembered.numbers, atoms.numbers)
        and np.array_equal(remembered.cell.array, atoms.cell.array)
        and np.array_equal(remembered.pbc, atoms.pbc)
    )


def mechanics(atoms: Atoms, results: Mapping[str, Any]) -> Mechanics:
    """The instant that a structure is at, from results that are there already.

    Args:
        atoms: with momenta, or at rest.
        results: of its calculator: the model's own forces, on which constraints do not act, and the energy that they
            belong to (``free_energy``, else ``energy``).

    >>> from ase import Atoms
    >>> pair = Atoms("H2", [[0, 0, 0], [1, 0, 0]])
    >>> mechanics(pair, {"forces": np.array([[0, -1.0, 0], [0, 1.0, 0]]), "energy": 0.0}).torque
    array([0., 0., 1.])
    """
    unknown = np.full(3, math.nan)
    masses = atoms.get_masses()
    arms = atoms.positions - masses @ atoms.positions / masses.sum()
    forces, momenta = results.get("forces"), atoms.arrays.get("momenta")
    if forces is not None:
        forces = np.asarray(forces, dtype=float)  # sums of single precision would round more than the model
    periodic = atoms.pbc.any()
    potential = results.get("free_energy", results.get("energy"))
    moves = momenta is not None
    return Mechanics(
        potential=math.nan if potential is None else float(potential) + _springs(atoms),
        kinetic=0.5 * float((momenta * momenta / masses[:, None]).sum()) if moves else 0.0,
        force=unknown if forces is None else forces.sum(0),
        torque=unknown if periodic or forces is None else _cross_sum(arms, forces),
        momentum=momenta.sum(0) / units.fs if moves else np.zeros(3),
        angular=unknown if periodic else _cross_sum(arms, momenta) / units.fs if moves else np.zeros(3),
    )


def _cross_sum(arms: Vector, vectors: Vector) -> Vector:
    """``Σ_i a_i × v_i`` from one matrix product."""
    m = arms.T @ vectors
    return np.array([m[1, 2] - m[2, 1], m[2, 0] - m[0, 2], m[0, 1] - m[1, 0]])


def _springs(atoms: Atoms) -> float:
    """Energy of constraints that have one, as :meth:`ase.Atoms.get_potential_energy` adds it."""
    having = [c for c in atoms.constraints if hasattr(c, "adjust_potential_energy")]
    return float(sum(c.adjust_potential_energy(atoms) for c in having))


@dataclass
class Budget:
    """Changes since the start, and the time integrals that should explain them.

    What happens between two instants counts only if the forces of both are known; a step where they are not is a gap,
    and so is one before which somebody else moved the atoms.

    Attributes:
        time: since the start, fs.
        instants: how many were added.
        known: of these, with forces.
        gaps: steps that were left out.
        momentum: its change ``(3,)``, eV·fs/Å.
        angular: change of the angular momentum ``(3,)``, eV·fs.
        energy: change of the total energy, eV.
        impulse: ``∫ F dt`` ``(3,)``, eV·fs/Å.
        angular_impulse: ``∫ τ dt`` ``(3,)``, eV·fs.
        torque_squares: sum of ``‖τ‖²`` over the known instants, eV².
        force_squares: sum of ``‖F‖²``, (eV/Å)².
        last: the latest instant.
        reference: total energy that was known last, eV.
    """

    time: float = 0.0
    instants: int = 0
    known: int = 0
    gaps: int = 0
    momentum: Vector = field(default_factory=lambda: np.zeros(3))
    angular: Vector = field(default_factory=lambda: np.zeros(3))
    energy: float = math.nan
    impulse: Vector = field(default_factory=lambda: np.zeros(3))
    angular_impulse: Vector = field(default_factory=lambda: np.zeros(3))
    torque_squares: float = 0.0
    force_squares: float = 0.0
    last: Mechanics | None = None
    reference: float = math.nan

    def add(self, now: Mechanics, step: float, *, joined: bool = True) -> None:
        """Take in the next instant.

        Args:
            now: the instant.
            step: time since the instant before, fs; NaN where there is no time, as in an optimisation.
            joined: whether only the dynamics moved the atoms in between.
        """
        self.instants += 1
        before, self.last = self.last, now
        known = bool(np.isfinite(now.force).all())
        if known:
            self.known += 1
            self.torque_squares += float(now.torque @ now.torque)
            self.force_squares += float(now.force @ now.force)
        self._add_energy(now.total, joined=joined)
        if before is None:
            return
        self.time += step
        if not (known and joined and np.isfinite(before.force).all()):
            self.gaps += 1
            return
        self.momentum = self.momentum + now.momentum - before.momentum
        self.angular = self.angular + now.angular - before.angular
        self.impulse = self.impulse + 0.5 * step * (before.force + now.force)
        self.angular_impulse = self.angular_impulse + 0.5 * step * (before.torque + now.torque)

    def _add_energy(self, total: float, *, joined: bool) -> None:
        """Some calculators give it at some steps only: its change is from the one that was known last."""
        if not math.isfinite(total):
            return
        if math.isnan(self.energy):
            self.energy = 0.0
        elif joined and math.isfinite(self.reference):
            self.energy += total - self.reference
        self.reference = total

    def resume_at(self, now: Mechanics) -> None:
        """Go on from an instant that is in the sums already."""
        self.last, self.reference = now, now.total

    @property
    def remainder(self) -> Vector:
        """``L(t) − L(0) − ∫ τ dt`` ``(3,)``: what the model's torque does not account for, eV·fs."""
        return self.angular - self.angular_impulse

    @property
    def momentum_remainder(self) -> Vector:
        """``P(t) − P(0) − ∫ F dt`` ``(3,)``, eV·fs/Å."""
        return self.momentum - self.impulse

    @property
    def torque(self) -> float:
        """Root mean square of the net torque over the instants, eV."""
        return math.sqrt(self.torque_squares / self.known) if self.known else math.nan

    @property
    def force(self) -> float:
        """Root mean square of the net force over the instants, eV/Å."""
        return math.sqrt(self.force_squares / self.known) if self.known else math.nan
