"""MatterSim: all structures of a call in one batch of its own data loader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe_ase.evaluators.evaluator import CannotBatchError, GraphEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator


class MatterSimEvaluator(GraphEvaluator):
    """Serves `mattersim.forcefield.MatterSimCalculator`: energy, free_energy, forces and stress."""

    name = "MatterSim, batched"
    in_voigt = True

    def __init__(self, calculator: Calculator) -> None:
        from mattersim.datasets.utils.build import build_dataloader
        from mattersim.forcefield.potential import batch_to_dict

        super().__init__(calculator)
        if self.calculator.potential.model_name != "m3gnet":
            raise CannotBatchError(f"a {self.calculator.potential.model_name}, which MatterSim evaluates one by one")
        self._load, self._to_dict = build_dataloader, batch_to_dict
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        arguments = self.calculator.potential.model.model_args
        self._cutoffs = {name: arguments[name] for name in ("cutoff", "threebody_cutoff")}
        _ = self.calculator.device, self.calculator.stress_weight, self.calculator.args_dict

    def graph(self, atoms: Atoms) -> Any:
        """See `GraphEvaluator.graph`: MatterSim's loader takes all structures at once."""
        return atoms

    def outputs(self, graphs: Sequence[Any], asked: set[str]) -> dict[str, torch.Tensor]:
        """See `GraphEvaluator.outputs`."""
        own = self.calculator
        options = own.args_dict | {"batch_size": len(graphs), "only_inference": 1} | self._cutoffs
        (batch,) = self._load(list(graphs), model_type=own.potential.model_name, **options)
        stress = own.compute_stress and "stress" in asked
        output = own.potential.forward(
            self._to_dict(batch, device=own.device), include_forces=True, include_stresses=stress
        )
        found = {"energy": output["total_energy"].flatten(), "forces": output["forces"]}
        if stress:
            found["stress"] = output["stresses"] * own.stress_weight
        return {**found, "free_energy": found["energy"]}
