"""metatomic (PET, SOAP-BPNN, PET-MAD): all systems of a call in the calculator's own call for several structures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe_ase.evaluators.evaluator import (
    CannotBatchError,
    Evaluator,
    ase_results,
    gradients_enabled,
    in_groups,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray


class MetatomicEvaluator(Evaluator):
    """Serves `metatomic_ase.MetatomicCalculator`, conservative and not: energy, energies, forces and stress.

    Molecules and crystals go through the model apart where stress is asked for: `compute_energy` gives it only if every
    structure of the call is periodic in all directions.
    """

    batched = True
    name = "metatomic, batched"
    cpu_atoms_per_call = 256

    def __init__(self, calculator: Calculator) -> None:
        self.calculator: Any = calculator
        further = sorted(self.calculator.model().requested_inputs(use_new_names=True))
        if further:
            raise CannotBatchError(f"the model asks for {', '.join(further)}, which compute_energy does not give it")
        _ = self.calculator.compute_energy  # touched here, so that a release that moved it is noticed before

    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """See `Evaluator.evaluate`."""
        with_stress = "stress" in properties

        def together(some: Sequence[Atoms]) -> list[dict[str, Any]]:
            with gradients_enabled():
                columns = self.calculator.compute_energy(
                    list(some),
                    compute_forces_and_stresses=not {"forces", "stress"}.isdisjoint(properties),
                    per_atom="energies" in properties,
                )
            return [{name: column[k] for name, column in columns.items()} for k in range(len(some))]

        raw = in_groups(structures, lambda atoms: with_stress and bool(atoms.pbc.all()), together)
        return [
            ase_results(one, properties, len(atoms), "MetatomicCalculator", in_voigt=True)
            for one, atoms in zip(raw, structures, strict=True)
        ]
