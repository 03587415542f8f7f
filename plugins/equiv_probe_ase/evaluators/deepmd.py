"""DeePMD: structures of the same atoms, as rotated copies are, as frames of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe_ase.evaluators.evaluator import Evaluator, ase_results, in_groups
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

        def together(some: Sequence[Atoms]) -> list[dict[str, Any]]:
            if PARAMETERS & some[0].info.keys():
                return LoopEvaluator(self.calculator).evaluate(some, properties)
            return [ase_results(raw, properties, len(some[0]), "DP") for raw in self._frames(some)]

        return in_groups(structures, _kind, together)

    def _frames(self, frames: Sequence[Atoms]) -> list[dict[str, Any]]:
        """Results of structures that differ in positions and cells alone."""
        periodic = bool(frames[0].pbc.any())
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


def _kind(atoms: Atoms) -> tuple[bool, ...]:
    """What frames of one call have in common: atoms, whether they are periodic, and no parameters of their own."""
    return bool(PARAMETERS & atoms.info.keys()), bool(atoms.pbc.any()), *atoms.numbers.tolist()
