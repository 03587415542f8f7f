"""SevenNet: all graphs of a call in one PyG batch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from equiv_probe_ase.evaluators.evaluator import Evaluator, ase_results, gradients_enabled, split_batch
from equiv_probe_ase.evaluators.loop import in_ase_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray


class SevenNetEvaluator(Evaluator):
    """Serves `sevenn.calculator.SevenNetCalculator`.

    Gives energy, free_energy, energies, forces, stress and, where the calculator computes atomic virials, stresses.
    """

    batched = True
    name = "SevenNet, batched"
    cpu_atoms_per_call = 32

    def __init__(self, calculator: Calculator) -> None:
        import sevenn._keys as keys
        from sevenn.atom_graph_data import AtomGraphData
        from sevenn.train.dataload import unlabeled_atoms_to_graph

        collate = import_module("torch_geometric.data").Batch.from_data_list  # SevenNet's graphs are PyG's
        self.calculator: Any = calculator
        self.keys = keys
        self._to_graph, self._graph_data, self._collate = unlabeled_atoms_to_graph, AtomGraphData, collate
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        _ = self.calculator.model.set_is_batch_data, self.calculator.model.is_batch_data, self.calculator.set_atoms
        _ = self.calculator.cutoff, self.calculator.modal, self.calculator.device
        _ = keys.PRED_TOTAL_ENERGY, keys.ATOMIC_ENERGY, keys.PRED_FORCE, keys.PRED_STRESS, keys.PRED_ATOMIC_VIRIAL

    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """See `Evaluator.evaluate`."""
        for atoms in structures:
            self.calculator.set_atoms(atoms)  # raises where the model does not know an element, and does nothing else
        with gradients_enabled():
            batch = self._collate([self._graph(atoms) for atoms in structures]).to(self.calculator.device)
            output = self._forward(batch)
        sizes = [len(atoms) for atoms in structures]
        ordered = [in_ase_order(self.calculator, row) for row in split_batch(self._by_ase_name(output), sizes)]
        return [ase_results(r, properties, n, "SevenNetCalculator") for r, n in zip(ordered, sizes, strict=True)]

    def _graph(self, atoms: Atoms) -> Any:
        graph = self._graph_data.from_numpy_dict(self._to_graph(atoms, self.calculator.cutoff, with_shift=False))
        if self.calculator.modal:
            graph[self.keys.DATA_MODALITY] = self.calculator.modal
        return graph

    def _forward(self, batch: Any) -> Any:
        """Run the model in its batch mode, and put it back into the mode that the calculator needs."""
        model = self.calculator.model
        was_batch = model.is_batch_data
        model.set_is_batch_data(True)
        try:
            return model(batch)
        finally:
            model.set_is_batch_data(was_batch)

    def _by_ase_name(self, output: Any) -> dict[str, Any]:
        stress = -output[self.keys.PRED_STRESS][:, [0, 1, 2, 4, 5, 3]]  # xx yy zz xy yz xz, virial sign -> ASE
        values = {
            "energy": output[self.keys.PRED_TOTAL_ENERGY],
            "free_energy": output[self.keys.PRED_TOTAL_ENERGY],
            "energies": output[self.keys.ATOMIC_ENERGY].flatten(),
            "forces": output[self.keys.PRED_FORCE],
            "stress": stress,
        }
        if self.keys.PRED_ATOMIC_VIRIAL in output:
            values["stresses"] = output[self.keys.PRED_ATOMIC_VIRIAL]
        return values
