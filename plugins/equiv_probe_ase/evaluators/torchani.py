"""TorchANI: molecules of a call padded to one size; what is periodic goes one by one, since a call has one cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from ase import units

from equiv_probe_ase.evaluators.evaluator import Evaluator, ase_results, gradients_enabled, in_groups
from equiv_probe_ase.evaluators.loop import LoopEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

NO_ATOM = -1


class TorchANIEvaluator(Evaluator):
    """Serves `torchani.ase.Calculator`: energy, free_energy and forces of molecules; all it gives of the others."""

    batched = True
    name = "TorchANI, batched (molecules)"

    def __init__(self, calculator: Calculator) -> None:
        self.calculator: Any = calculator
        self._loop = LoopEvaluator(calculator)
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        self._options = {"device": self.calculator._device, "dtype": self.calculator._dtype}
        _ = self.calculator.model

    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """See `Evaluator.evaluate`."""

        def together(some: Sequence[Atoms]) -> list[dict[str, NDArray[np.float64]]]:
            if some[0].pbc.any() or "stress" in properties:
                return self._loop.evaluate(some, properties)
            raw = self._molecules(some, forces="forces" in properties)
            return [ase_results(one, properties, len(a), "Calculator") for one, a in zip(raw, some, strict=True)]

        return in_groups(structures, lambda atoms: bool(atoms.pbc.any()), together)

    def _molecules(self, molecules: Sequence[Atoms], *, forces: bool) -> list[dict[str, Any]]:
        shape = len(molecules), max(map(len, molecules))
        elements = torch.full(shape, NO_ATOM, dtype=torch.long, device=self._options["device"])
        positions = torch.zeros((*shape, 3), **self._options)
        for row, atoms in enumerate(molecules):
            elements[row, : len(atoms)] = torch.from_numpy(atoms.numbers)
            positions[row, : len(atoms)] = torch.from_numpy(atoms.positions)
        with gradients_enabled():
            energies = self.calculator.model((elements, positions.requires_grad_(forces))).energies * units.Hartree
            gradients = torch.autograd.grad(energies.sum(), positions)[0] if forces else None
        found = []
        for row, atoms in enumerate(molecules):
            energy = energies[row].detach().cpu()
            raw = {"energy": energy, "free_energy": energy}
            if gradients is not None:
                raw["forces"] = -gradients[row, : len(atoms)].cpu()
            found.append(raw)
        return found
