"""DeePMD: structures of the same atoms, as rotated copies are, as frames of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe_ase.evaluators.evaluator import Evaluator, ase_results
from equiv_probe_ase.evaluators.loop import LoopEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

PARAMETERS = frozenset({"fparam", "aparam", "charge_spin"})
"""Further inputs, which the calculator reads from `Atoms.info`: structures that have them go one by one."""


class DeepmdEvaluator(Evaluator):
    """Serves `deepmd.calculator.DP`: energy, free_energy, forces and, of what is periodic, stress."""

    batched = True
    name = "DeePMD, batched"

    def __init__(self, calculator: Calculator) -> None:
        self.calculator: Any = calculator
        _ = self.calculator.dp.eval, self.calculator.type_dict  # so that a release that moved them is noticed here

    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """See `Evaluator.evaluate`."""
        alike: dict[Any, list[int]] = {}
        found: dict[int, dict[str, NDArray[np.float64]]] = {}
        for i, atoms in enumerate(structures):
            if PARAMETERS & atoms.info.keys():
                found[i] = LoopEvaluator(self.calculator).evaluate([atoms], properties)[0]
            else:
                alike.setdefault((bool(atoms.pbc.any()), *atoms.numbers.tolist()), []).append(i)
        for (periodic, *_), chosen in alike.items():
            frames = self._frames([structures[i] for i in chosen], periodic=periodic)
            for i, raw in zip(chosen, frames, strict=True):
                found[i] = ase_results(raw, properties, len(structures[i]), "DP")
        return [found[i] for i in range(len(structures))]

    def _frames(self, frames: Sequence[Atoms], *, periodic: bool) -> list[dict[str, Any]]:
        """Results of structures that differ in positions and cells alone."""
        energies, forces, virials = self.calculator.dp.eval(
            coords=np.stack([atoms.positions.ravel() for atoms in frames]),
            cells=np.stack([atoms.cell.array.ravel() for atoms in frames]) if periodic else None,
            atom_types=[self.calculator.type_dict[symbol] for symbol in frames[0].symbols],
        )[:3]
        found = []
        for atoms, energy, force, virial in zip(frames, energies, forces, virials, strict=True):
            raw = {"energy": energy[0], "free_energy": energy[0], "forces": force}
            if periodic:
                square = virial.reshape(3, 3)
                raw["stress"] = -0.5 * (square + square.T) / atoms.get_volume()
            found.append(raw)
        return found
