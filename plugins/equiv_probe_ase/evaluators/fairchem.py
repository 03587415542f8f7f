"""fairchem (UMA, eSEN, EScAIP): all structures of a call in one call of its predict unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe_ase.evaluators.evaluator import CannotBatchError, GraphEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator


class FairchemEvaluator(GraphEvaluator):
    """Serves `fairchem.core.FAIRChemCalculator`: what its task predicts of energy, free_energy, forces and stress."""

    name = "fairchem, batched"
    in_voigt = True

    def __init__(self, calculator: Calculator) -> None:
        from fairchem.core.datasets.atomic_data import atomicdata_list_to_batch

        super().__init__(calculator)
        if self.calculator.predictor.inference_settings.merge_mole:
            raise CannotBatchError("its experts are merged for one composition; ?inference_settings=batch keeps them")
        self._collate = atomicdata_list_to_batch
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        _ = self.calculator.a2g, self.calculator.predictor.predict, self.calculator.predictor.validate_atoms_data

    def graph(self, atoms: Atoms) -> Any:
        """See `GraphEvaluator.graph`."""
        self.calculator.predictor.validate_atoms_data(atoms, self.calculator.task_name)
        return self.calculator.a2g(atoms)

    def outputs(self, graphs: Sequence[Any], asked: set[str]) -> dict[str, torch.Tensor]:
        """See `GraphEvaluator.outputs`: all that the task predicts."""
        del asked
        output = self.calculator.predictor.predict(self._collate(list(graphs)))
        given = {"energy", "forces", "stress"} & set(self.calculator.implemented_properties)
        found = {name: output[name] for name in given}
        if "stress" in found:
            found["stress"] = found["stress"].reshape(len(graphs), 3, 3)
        return found if "energy" not in found else {**found, "free_energy": found["energy"]}
