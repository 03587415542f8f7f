"""Planted models as ASE calculators, and structures to ask them about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes

from equiv_probe.testing import QuadraticEnergy

from .averaging import wells

if TYPE_CHECKING:
    from ase import Atoms

MATRIX = torch.tensor([[0.9, 0.3, -0.2], [0.3, 0.5, 0.4], [-0.2, 0.4, 0.1]], dtype=torch.float64)
STRESS = torch.tensor([[0.7, -0.3, 0.5], [-0.3, 0.2, 0.1], [0.5, 0.1, -0.4]], dtype=torch.float64)


class PlantedCalculator(Calculator):
    """A function of positions as an ASE calculator, one structure at a time.

    Args:
        field: positions ``(N, 3)`` to a dict of outputs, of :mod:`equiv_probe.testing` for example.
        dtype: that it computes in.
        names: of the outputs; of a planted model by default.
        unknown: atomic numbers that it raises on, and ``poison``, those that it gives NaN for.
    """

    def __init__(
        self,
        field: Any,
        dtype: torch.dtype = torch.float64,
        names: list[str] | None = None,
        unknown: int = 0,
        poison: int = 0,
    ) -> None:
        super().__init__()
        self.field, self.dtype, self.unknown, self.poison = field, dtype, unknown, poison
        self.implemented_properties = names or list(field.outputs)
        self.evaluations = 0

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = tuple(all_changes)
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = self.evaluate(self.atoms)

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        self.evaluations += 1
        if self.unknown in atoms.numbers:
            raise KeyError(f"no parameters for Z = {self.unknown}")
        found = self.field(torch.from_numpy(atoms.positions).to(self.dtype))
        results = {name: value.detach().double().numpy() for name, value in found.items()}
        if self.poison in atoms.numbers:
            results["forces"] = results["forces"] * np.nan
        return results


class BatchedPlantedCalculator(PlantedCalculator):
    """The same, with a batch call; the arithmetic of a structure does not depend on its batch."""

    def calculate_batch(self, structures: list[Atoms], properties: list[str]) -> list[dict[str, Any]]:
        return [self.evaluate(atoms) for atoms in structures]


def _mixed() -> list[Atoms]:
    """A molecule, a crystal, a slab and a larger molecule: different sizes, compositions and boundary conditions."""
    made = [molecule("H2O"), bulk("NaCl", "rocksalt", 5.64) * (2, 1, 1), fcc111("Cu", (2, 1, 2), vacuum=5.0)]
    made.append(molecule("CH3CH2OH"))
    for seed, atoms in enumerate(made):
        atoms.positions += np.random.default_rng(seed).normal(scale=0.1, size=atoms.positions.shape)
    return made


@pytest.fixture
def cluster() -> Atoms:
    return wells.cluster()


@pytest.fixture
def crystal() -> Atoms:
    return wells.crystal()


@pytest.fixture
def mixed() -> list[Atoms]:
    return _mixed()


@pytest.fixture
def quadratic() -> QuadraticEnergy:
    """Energy, forces and stress with no symmetry at all."""
    return QuadraticEnergy(MATRIX, STRESS)


@pytest.fixture
def planted() -> type[PlantedCalculator]:
    return PlantedCalculator


@pytest.fixture
def batched() -> type[BatchedPlantedCalculator]:
    return BatchedPlantedCalculator
