"""matgl (M3GNet, TensorNet, CHGNet, …): all graphs of a call in one PyG batch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe_ase.evaluators.evaluator import CannotBatchError, GraphEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator


class MatglEvaluator(GraphEvaluator):
    """Serves `matgl.ext.ase.PESCalculator`: energy, free_energy, forces and, where it computes it, stress."""

    name = "matgl, batched"
    cpu_atoms_per_call = 128

    def __init__(self, calculator: Calculator) -> None:
        super().__init__(calculator)
        own = self.calculator
        if own.compute_hessian or own.compute_magmom or own.compute_charge:
            raise CannotBatchError("it gives more than energies and their gradients")
        self._collate = import_module("torch_geometric.data").Batch.from_data_list
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        _ = own._atoms2graph.get_graph, own.potential, own.state_attr, own.compute_stress, own.conversion_factor

    def graph(self, atoms: Atoms) -> Any:
        """See `GraphEvaluator.graph`."""
        return self.calculator._atoms2graph.get_graph(atoms)

    def outputs(self, graphs: Sequence[Any], asked: set[str]) -> dict[str, torch.Tensor]:
        """See `GraphEvaluator.outputs`: all that the potential computes."""
        del asked
        own = self.calculator
        cells = torch.cat([cell.reshape(1, 3, 3) for _, cell, _ in graphs])
        defaults = [own.state_attr if own.state_attr is not None else state for _, _, state in graphs]
        states = torch.stack([torch.as_tensor(state).flatten() for state in defaults])
        energy, forces, stress, *_ = own.potential(self._collate([graph for graph, *_ in graphs]), cells, states)
        found = {"energy": energy.flatten(), "free_energy": energy.flatten(), "forces": forces}
        if own.compute_stress:
            found["stress"] = stress.reshape(len(graphs), 3, 3) * own.conversion_factor
        return found
