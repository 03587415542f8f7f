"""Orb: all atom graphs of a call in one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe_ase.evaluators.evaluator import Evaluator, ase_results, gradients_enabled, split_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray


class OrbEvaluator(Evaluator):
    """Serves `orb_models.forcefield.calculator.ORBCalculator`, direct and conservative.

    Gives energy, free_energy, forces and stress.
    Every graph is built on its own with the calculator's own cutoff, neighbour cap and edge method, so a cap bites
    exactly where it does in a single call. Like the calculator, Orb's conversion wraps periodic positions into the
    cell; the model sees edge vectors only.
    """

    batched = True
    name = "Orb, batched"
    cpu_atoms_per_call = 128

    def __init__(self, calculator: Calculator) -> None:
        from orb_models.forcefield.atomic_system import ase_atoms_to_atom_graphs
        from orb_models.forcefield.base import batch_graphs

        self.calculator: Any = calculator
        self._to_graph, self._collate = ase_atoms_to_atom_graphs, batch_graphs
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        self._graph_options = {
            name: getattr(self.calculator, name)
            for name in ("system_config", "max_num_neighbors", "edge_method", "half_supercell", "device")
        }
        _ = self.calculator.model.predict, self.calculator.model.heads, self.calculator.conservative

    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """See `Evaluator.evaluate`."""
        sizes = [len(atoms) for atoms in structures]
        with gradients_enabled():
            graphs = [self._to_graph(atoms.copy(), **self._graph_options) for atoms in structures]
            output = self.calculator.model.predict(self._collate(graphs).to(self.calculator.device))
        found = {name: self._output_name(name) for name in ("energy", "free_energy", "forces", "stress")}
        rows = split_batch({name: output[key] for name, key in found.items() if key in output}, sizes)
        return [ase_results(row, properties, n, "ORBCalculator") for row, n in zip(rows, sizes, strict=True)]

    def _output_name(self, name: str) -> str | None:
        """Return the model output that the calculator stores under this ASE name."""
        model = self.calculator.model
        if name in {"energy", "free_energy"}:
            return "energy" if "energy" in model.heads else None
        if self.calculator.conservative:
            return str(model.grad_forces_name if name == "forces" else model.grad_stress_name)
        return name if {"forces", "stress"} <= set(model.heads) else None
