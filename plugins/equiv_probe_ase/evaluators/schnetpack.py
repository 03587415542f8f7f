"""SchNetPack: all structures of a call in one batch of the calculator's own converter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.evaluators.evaluator import CannotBatchError, GraphEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator


class SpkEvaluator(GraphEvaluator):
    """Serves `schnetpack.interfaces.SpkCalculator`: energy, forces and, where it has a stress key, stress.

    Units are converted as the calculator does: model outputs by ``property_units``, positions not at all.
    """

    name = "SchNetPack, batched"

    def __init__(self, calculator: Calculator) -> None:
        from schnetpack.interfaces import AtomsConverter

        super().__init__(calculator)
        if not isinstance(self.calculator.converter, AtomsConverter):
            converter = type(self.calculator.converter).__name__
            raise CannotBatchError(f"its converter is a {converter}, which may not take several structures")
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        _ = self.calculator.model, self.calculator.property_map, self.calculator.property_units

    def graph(self, atoms: Atoms) -> Any:
        """See `GraphEvaluator.graph`: SchNetPack's converter takes all structures at once."""
        return atoms

    def outputs(self, graphs: Sequence[Any], asked: set[str]) -> dict[str, torch.Tensor]:
        """See `GraphEvaluator.outputs`: all that the model gives."""
        del asked
        # The model writes into its input: the batch is made for this call and not kept.
        output = self.calculator.model(self.calculator.converter(list(graphs)))
        keys = {name: key for name, key in self.calculator.property_map.items() if key is not None}
        for name, key in keys.items():
            if key not in output:
                raise EquivProbeError(
                    f"no {key!r} among the outputs of the SchNetPack model",
                    f"the key of its {name}",
                    f"SpkCalculator({'force' if name == 'forces' else name}_key=...)",
                )
        return {name: output[key] * self.calculator.property_units[name] for name, key in keys.items()}
