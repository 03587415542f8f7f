"""Anisotropic wells as ASE calculators, their twirl in closed form, and structures to put into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

if TYPE_CHECKING:
    from collections.abc import Sequence

WELL = np.array([[1.3, 0.4, -0.2], [0.4, 0.7, 0.3], [-0.2, 0.3, 0.2]])
TRACE = float(np.trace(WELL))
ALONG = np.array([2.0, -1.0, 2.0]) / 3
ROUND_OFF = 1e-12


class Well(Calculator):
    """Energy ``½ Σ vᵀ A v + s/4 Σ (u·x)⁴``: v are positions and cell vectors, x positions about the origin.

    Forces and stress are its derivatives, which ASE can check by differences; the dipole is tilted, the charges are x
    coordinates, and magnetic moments are promised and never given.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "dipole",
        "charges",
        "magmoms",
    ]

    def __init__(self, quartic: float = 0.0) -> None:
        super().__init__()
        self.quartic, self.evaluations = quartic, 0

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self.evaluations += 1
        x = self.atoms.positions
        v, along = np.concatenate([x, self.atoms.cell.array]), x @ ALONG
        energy = 0.5 * np.einsum("ni,ij,nj->", v, WELL, v) + self.quartic / 4 * (along**4).sum()
        forces = -x @ WELL - self.quartic * along[:, None] ** 3 * ALONG
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        self.results["energies"] = 0.5 * np.einsum("ni,ij,nj->n", x, WELL, x) + self.quartic / 4 * along**4
        self.results |= {"dipole": x.sum(0) @ WELL, "charges": x[:, 0].copy()}
        if self.atoms.cell.rank == 3:
            virial = (v @ WELL).T @ v - (forces + x @ WELL).T @ x
            self.results["stress"] = full_3x3_to_voigt_6_stress(virial / self.atoms.get_volume())


class BatchedWell(Well):
    """The same, many structures at a time."""

    def calculate_batch(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, Any]]:
        found = []
        for atoms in structures:
            self.calculate(atoms, properties)
            found.append(dict(self.results))
        return found


def twirled(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and stress of the quadratic well's twirl ``tr(A)/6 Σ |v|²``."""
    v = np.concatenate([atoms.positions, atoms.cell.array])
    stress = TRACE / 3 * v.T @ v / atoms.get_volume() if atoms.cell.rank == 3 else np.zeros((3, 3))
    return TRACE / 6 * float((v**2).sum()), -TRACE / 3 * atoms.positions, stress


def traceless(matrix: np.ndarray) -> float:
    """‖M₂‖² of the traceless part of a symmetric matrix."""
    return float(((matrix - np.trace(matrix) / 3 * np.eye(3)) ** 2).sum())


def cluster() -> Atoms:
    """Four atoms away from the origin."""
    return Atoms("CuAuNiPd", np.random.default_rng(3).normal(size=(4, 3)) + np.array([0.5, -0.3, 0.8]))


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms
