"""MACE: all graphs of a call in one batch, for each model of a committee."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe_ase.evaluators.evaluator import CannotBatchError, GraphEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator


class MaceEvaluator(GraphEvaluator):
    """Serves `mace.calculators.MACECalculator` of energy models: energy, free_energy, energies, forces and stress.

    Graphs are the calculator's own, heads included. Of a committee the mean, as in the calculator.
    """

    name = "MACE, batched"
    in_voigt = True
    cpu_atoms_per_call = 256

    def __init__(self, calculator: Calculator) -> None:
        from mace.data import AtomicData, KeySpecification, config_from_atoms
        from mace.tools.torch_geometric import Batch
        from mace.tools.torch_tools import default_dtype

        super().__init__(calculator)
        if self.calculator.model_type != "MACE":
            raise CannotBatchError(f"a {self.calculator.model_type} gives more than energies and their gradients")
        if getattr(self.calculator, "use_compile", False):
            raise CannotBatchError("a compiled MACE is compiled for one structure")
        self._read, self._to_graph, self._collate = config_from_atoms, AtomicData.from_config, Batch.from_data_list
        self._in_dtype = default_dtype
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        charges = {self.calculator.charges_key: "charges"}
        self._keys = KeySpecification(
            info_keys=self.calculator.info_keys, arrays_keys={**self.calculator.arrays_keys, **charges}
        )
        _ = self.calculator.models, self.calculator.device, self.calculator.default_dtype, self.calculator.head
        _ = self.calculator.z_table, self.calculator.r_max, self.calculator.available_heads
        self._units = {
            "energy": self.calculator.energy_units_to_eV,
            "node_energy": self.calculator.energy_units_to_eV,
            "forces": self.calculator.energy_units_to_eV / self.calculator.length_units_to_A,
            "stress": self.calculator.energy_units_to_eV / self.calculator.length_units_to_A**3,
        }

    def graph(self, atoms: Atoms) -> Any:
        """See `GraphEvaluator.graph`."""
        own = self.calculator
        with self._in_dtype(own.default_dtype):
            configuration = self._read(atoms, key_specification=self._keys, head_name=own.head)
            return self._to_graph(configuration, z_table=own.z_table, cutoff=own.r_max, heads=own.available_heads)

    def outputs(self, graphs: Sequence[Any], asked: set[str]) -> dict[str, torch.Tensor]:
        """See `GraphEvaluator.outputs`: of a committee the mean."""
        each = [self._run(model, graphs, asked) for model in self.calculator.models]
        means = {name: torch.stack([one[name] for one in each]).mean(0) * self._units[name] for name in each[0]}
        return {"free_energy": means["energy"], "energies": means.pop("node_energy"), **means}

    def _run(self, model: Any, graphs: Sequence[Any], asked: set[str]) -> dict[str, torch.Tensor]:
        """What one model says, in its own units."""
        dtype = next(model.parameters()).dtype
        batch = self._collate(graphs).to(self.calculator.device).to_dict()
        values = {
            key: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
            for key, value in batch.items()
        }
        output = model(values, compute_force="forces" in asked, compute_stress="stress" in asked)
        return {name: output[name].detach() for name in self._units if output.get(name) is not None}
