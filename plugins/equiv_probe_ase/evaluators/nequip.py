"""NequIP and Allegro: all structures of a call in one batch of NequIP's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe_ase.evaluators.evaluator import CannotBatchError, GraphEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator


class NequIPEvaluator(GraphEvaluator):
    """Serves `nequip.integrations.ase.NequIPCalculator`: energy, free_energy, energies, forces and stress.

    A model compiled by AOTInductor for ASE is compiled for one structure; one compiled to TorchScript, or not compiled,
    takes batches.
    """

    name = "NequIP, batched"
    in_voigt = True

    def __init__(self, calculator: Calculator) -> None:
        from nequip.data import AtomicDataDict

        super().__init__(calculator)
        if AtomicDataDict.BATCH_KEY not in getattr(self.calculator.model, "input_keys", {AtomicDataDict.BATCH_KEY}):
            raise CannotBatchError("AOTInductor compiled it for one structure; --mode torchscript takes several")
        self._keys, self._collate = AtomicDataDict, AtomicDataDict.batched_from_list
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        _ = self.calculator.atoms_to_data, self.calculator.call_model

    def graph(self, atoms: Atoms) -> Any:
        """See `GraphEvaluator.graph`."""
        return self.calculator.atoms_to_data(atoms)

    def outputs(self, graphs: Sequence[Any], asked: set[str]) -> dict[str, torch.Tensor]:
        """See `GraphEvaluator.outputs`: all that the model gives."""
        del asked
        output = self.calculator.call_model(self._collate(list(graphs)))
        energy, length = self.calculator.energy_units_to_eV, self.calculator.length_units_to_A
        keys = {
            "energy": (self._keys.TOTAL_ENERGY_KEY, energy),
            "free_energy": (self._keys.TOTAL_ENERGY_KEY, energy),
            "energies": (self._keys.PER_ATOM_ENERGY_KEY, energy),
            "forces": (self._keys.FORCE_KEY, energy / length),
            "stress": (self._keys.STRESS_KEY, energy / length**3),
        }
        found = {name: output[key] * unit for name, (key, unit) in keys.items() if key in output}
        flat = {"energy", "free_energy", "energies"} & found.keys()
        return found | {name: found[name].flatten() for name in flat}
