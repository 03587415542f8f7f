"""The adapter conformance suite on the plugin's own path: rotator, evaluator, engine and job, as an audit uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import equiv_probe as ep
from equiv_probe.representations.representation import CartesianTensor
from equiv_probe.testing import Field, check_adapter
from equiv_probe_ase.auditing.evaluation import evaluate_jobs
from equiv_probe_ase.auditing.job import Job
from equiv_probe_ase.evaluators import evaluator_for
from equiv_probe_ase.evaluators.engine import Engine
from equiv_probe_ase.structures.loading import Structure
from equiv_probe_ase.structures.quantities import Quantity
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from ase import Atoms
    from torch import Tensor

# In the field's own units and shapes: the suite compares with the field itself.
QUANTITIES = {
    "energy": Quantity("energy", ep.scalar, "eV"),
    "forces": Quantity("forces", ep.vector, "eV/Å", per_atom=True),
    "stress": Quantity("stress", ep.voigt(), "eV/Å³"),
}


class AseCase:
    """ASE structures through a calculator that evaluates the suite's field."""

    def __init__(self, calculator: Any, *, atoms_per_call: int = 4096) -> None:
        self.calculator, self.atoms_per_call = calculator, atoms_per_call
        water, slab = molecule("H2O"), bulk("NaCl", "rocksalt", 5.64) * (2, 1, 2)
        slab.pbc = [True, True, False]
        slab.rattle(0.1, seed=0)
        water.set_momenta(np.ones((3, 3)))
        self._structures = [water, slab]

    def structures(self) -> list[Atoms]:
        return self._structures

    def positions(self, structure: Atoms) -> Tensor:
        return torch.from_numpy(structure.positions.copy())

    def orbit(self, field: Field, structure: Atoms, plan: ep.RotationPlan) -> ep.Orbit:
        given = field(self.positions(structure))
        quantities = {name: QUANTITIES[name] for name in given}
        evaluator = evaluator_for(self.calculator(field, names=list(given)))
        job = Job(Structure(0, "one", structure), quantities, plan, Rotator(structure), torch.float64)
        failed = evaluate_jobs(Engine(evaluator, self.atoms_per_call), [job])
        for error in failed.values():
            raise error
        return job.orbit()

    def state(self, structure: Atoms) -> Any:
        arrays = {name: values.tolist() for name, values in structure.arrays.items()}
        return [arrays, structure.cell.tolist(), structure.pbc.tolist(), sorted(structure.info), structure.calc]


@pytest.mark.parametrize("atoms_per_call", [50, 4096])
def test_calculators_with_a_batch_call_conform(batched: Any, atoms_per_call: int) -> None:
    check_adapter(AseCase(batched, atoms_per_call=atoms_per_call), tolerance=1e-9)


def test_calculators_in_a_loop_conform(planted: Any) -> None:
    check_adapter(AseCase(planted), tolerance=1e-9)


@pytest.mark.parametrize("broken", ["copies", "rotate_back"])
def test_negative_control_a_plugin_that_rotates_nothing(
    planted: Any, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken == "copies":
        monkeypatch.setattr(Rotator, "copies", lambda self, rotations: [self.atoms.copy() for _ in rotations])
    else:
        monkeypatch.setattr(CartesianTensor, "rotate_back", lambda self, values, *_: values)
    with pytest.raises(AssertionError, match="adapter conformance"):
        check_adapter(AseCase(planted), tolerance=1e-9)
