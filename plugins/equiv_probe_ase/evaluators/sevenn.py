"""SevenNet: all graphs of a call in one PyG batch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from equiv_probe_ase.evaluators.evaluator import GraphEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator

_IN_ASE_ORDER = [0, 1, 2, 4, 5, 3]
"""SevenNet's xx yy zz xy yz xz."""


class SevenNetEvaluator(GraphEvaluator):
    """Serves `sevenn.calculator.SevenNetCalculator`.

    Gives energy, free_energy, energies, forces, stress and, where the calculator computes atomic virials, stresses.
    """

    name = "SevenNet, batched"
    cpu_atoms_per_call = 32

    def __init__(self, calculator: Calculator) -> None:
        import sevenn._keys as keys
        from sevenn.atom_graph_data import AtomGraphData
        from sevenn.train.dataload import unlabeled_atoms_to_graph

        collate = import_module("torch_geometric.data").Batch.from_data_list  # SevenNet's graphs are PyG's
        super().__init__(calculator)
        self.keys = keys
        self._to_graph, self._graph_data, self._collate = unlabeled_atoms_to_graph, AtomGraphData, collate
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        _ = self.calculator.model.set_is_batch_data, self.calculator.model.is_batch_data, self.calculator.set_atoms
        _ = self.calculator.cutoff, self.calculator.modal, self.calculator.device
        _ = keys.PRED_TOTAL_ENERGY, keys.ATOMIC_ENERGY, keys.PRED_FORCE, keys.PRED_STRESS, keys.PRED_ATOMIC_VIRIAL

    def graph(self, atoms: Atoms) -> Any:
        """See `GraphEvaluator.graph`."""
        self.calculator.set_atoms(atoms)  # raises where the model does not know an element, and does nothing else
        graph = self._graph_data.from_numpy_dict(self._to_graph(atoms, self.calculator.cutoff, with_shift=False))
        if self.calculator.modal:
            graph[self.keys.DATA_MODALITY] = self.calculator.modal
        return graph

    def outputs(self, graphs: Sequence[Any], asked: set[str]) -> dict[str, torch.Tensor]:
        """See `GraphEvaluator.outputs`: all that the model gives."""
        del asked
        output = self._forward(self._collate(list(graphs)).to(self.calculator.device))
        values = {
            "energy": output[self.keys.PRED_TOTAL_ENERGY],
            "free_energy": output[self.keys.PRED_TOTAL_ENERGY],
            "energies": output[self.keys.ATOMIC_ENERGY].flatten(),
            "forces": output[self.keys.PRED_FORCE],
            "stress": -output[self.keys.PRED_STRESS][:, _IN_ASE_ORDER],  # the sign of a virial
        }
        if self.keys.PRED_ATOMIC_VIRIAL in output:
            values["stresses"] = output[self.keys.PRED_ATOMIC_VIRIAL][:, _IN_ASE_ORDER]
        return values

    def _forward(self, batch: Any) -> Any:
        """Run the model in its batch mode, and put it back into the mode that the calculator needs."""
        model = self.calculator.model
        was_batch = model.is_batch_data
        model.set_is_batch_data(True)
        try:
            return model(batch)
        finally:
            model.set_is_batch_data(was_batch)
