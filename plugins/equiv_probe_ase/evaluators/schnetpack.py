"""SchNetPack: all structures of a call in one batch of the calculator's own converter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.evaluators.evaluator import (
    CannotBatchError,
    Evaluator,
    ase_results,
    gradients_enabled,
    split_batch,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray


class SpkEvaluator(Evaluator):
    """Serves `schnetpack.interfaces.SpkCalculator`: energy, forces and, where it has a stress key, stress.

    Units are converted as the calculator does: model outputs by ``property_units``, positions not at all.
    """

    batched = True
    name = "SchNetPack, batched"

    def __init__(self, calculator: Calculator) -> None:
        from schnetpack.interfaces import AtomsConverter

        self.calculator: Any = calculator
        if not isinstance(self.calculator.converter, AtomsConverter):
            converter = type(self.calculator.converter).__name__
            raise CannotBatchError(f"its converter is a {converter}, which may not take several structures")
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        _ = self.calculator.model, self.calculator.property_map, self.calculator.property_units

    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """See `Evaluator.evaluate`."""
        sizes = [len(atoms) for atoms in structures]
        with gradients_enabled():
            # The model writes into its input: the batch is made for this call and not kept.
            output = self.calculator.model(self.calculator.converter([atoms.copy() for atoms in structures]))
        keys = {name: key for name, key in self.calculator.property_map.items() if key is not None}
        for name, key in keys.items():
            if key not in output:
                raise EquivProbeError(
                    f"no {key!r} among the outputs of the SchNetPack model",
                    f"the key of its {name}",
                    f"SpkCalculator({'force' if name == 'forces' else name}_key=...)",
                )
        units = self.calculator.property_units
        rows = [
            {name: value * units[name] for name, value in row.items()}
            for row in split_batch({name: output[key] for name, key in keys.items()}, sizes)
        ]
        return [ase_results(row, properties, n, "SpkCalculator") for row, n in zip(rows, sizes, strict=True)]
