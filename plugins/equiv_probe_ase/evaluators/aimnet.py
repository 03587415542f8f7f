"""AIMNet2: structures of one kind of periodicity, one after another in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe_ase.evaluators.evaluator import (
    Evaluator,
    ase_results,
    gradients_enabled,
    in_groups,
    split_batch,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray


class AimnetEvaluator(Evaluator):
    """Serves `aimnet.calculators.AIMNet2ASE`: energy, charges, forces and, of what is periodic, stress."""

    batched = True
    name = "AIMNet2, batched"

    def __init__(self, calculator: Calculator) -> None:
        self.calculator: Any = calculator
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        _ = self.calculator.base_calc.device, self.calculator.charge, self.calculator.mult
        _ = self.calculator.validate_species

    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """See `Evaluator.evaluate`."""
        asked = set(properties)
        raw = in_groups(structures, lambda atoms: tuple(atoms.pbc), lambda some: self._together(some, asked))
        return [ase_results(one, properties, len(a), "AIMNet2ASE") for one, a in zip(raw, structures, strict=True)]

    def _together(self, structures: Sequence[Atoms], asked: set[str]) -> list[dict[str, Any]]:
        """Results of structures that are periodic along the same axes."""
        own, sizes = self.calculator, [len(atoms) for atoms in structures]
        charges = [atoms.info.get("charge", own.charge) for atoms in structures]
        multiplicities = [atoms.info.get("mult", atoms.info.get("spin", own.mult)) for atoms in structures]
        columns = {
            "coord": torch.tensor(np.concatenate([atoms.positions for atoms in structures]), dtype=torch.float32),
            "numbers": torch.tensor(np.concatenate([atoms.numbers for atoms in structures])),
            "charge": torch.tensor(charges, dtype=torch.float32),
            "mult": torch.tensor(multiplicities, dtype=torch.float32),
            "mol_idx": torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        }
        data: dict[str, Any] = {name: values.to(own.base_calc.device) for name, values in columns.items()}
        periodic = bool(structures[0].pbc.any())
        if periodic:
            cells = np.stack([atoms.cell.array for atoms in structures])
            data |= {
                "cell": torch.tensor(cells, dtype=torch.float32).to(own.base_calc.device),
                "pbc": structures[0].pbc,
            }
        with gradients_enabled():
            output = own.base_calc(
                data,
                forces="forces" in asked,
                stress=periodic and "stress" in asked,
                validate_species=own.validate_species,
            )
        given = {"energy", "charges", "forces", "stress"} & output.keys()
        return split_batch({name: output[name] for name in given}, sizes)
