"""Orb: all atom graphs of a call in one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe_ase.evaluators.evaluator import GraphEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from ase import Atoms
    from ase.calculators.calculator import Calculator


class OrbEvaluator(GraphEvaluator):
    """Serves `ORBCalculator` of orb-models 0.5 and later, direct and conservative.

    Gives energy, free_energy, forces and stress.
    Every graph is built on its own with the calculator's own cutoff, neighbour cap and edge method, so a cap bites
    exactly where it does in a single call. Like the calculator, Orb's conversion wraps periodic positions into the
    cell; the model sees edge vectors only.
    """

    name = "Orb, batched"
    cpu_atoms_per_call = 128

    def __init__(self, calculator: Calculator) -> None:
        super().__init__(calculator)
        own = self.calculator
        names = ["max_num_neighbors", "edge_method", "half_supercell", "device"]
        if hasattr(own, "adapter"):  # orb-models 0.6 and later
            self._to_graph, self._collate = own.adapter.from_ase_atoms, own.adapter.batch
        else:
            from orb_models.forcefield.atomic_system import ase_atoms_to_atom_graphs
            from orb_models.forcefield.base import batch_graphs

            self._to_graph, self._collate = ase_atoms_to_atom_graphs, batch_graphs
            names.append("system_config")
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        self._graph_options = {name: getattr(own, name) for name in names}
        self._model = getattr(own.model, "xc_model", own.model)  # within a sum with D3
        self._asks_charge = getattr(own, "expects_charge_and_spin", False)
        _ = own.model.predict, self._model.heads, own.conservative

    def graph(self, atoms: Atoms) -> Any:
        """See `GraphEvaluator.graph`."""
        if self._asks_charge and not {"charge", "spin"} <= atoms.info.keys():
            raise ValueError("atoms.info must contain both 'charge' and 'spin'")  # as the calculator does
        return self._to_graph(atoms, **self._graph_options)

    def outputs(self, graphs: Sequence[Any], asked: set[str]) -> dict[str, torch.Tensor]:
        """See `GraphEvaluator.outputs`: all that the model gives."""
        del asked
        output = self.calculator.model.predict(self._collate(list(graphs)).to(self.calculator.device))
        found = {name: self._output_name(name) for name in ("energy", "free_energy", "forces", "stress")}
        return {name: output[key] for name, key in found.items() if key in output}

    def _output_name(self, name: str) -> str | None:
        """Return the model output that the calculator stores under this ASE name."""
        if name not in {"energy", "free_energy"} and self.calculator.conservative:
            return str(self._model.grad_forces_name if name == "forces" else self._model.grad_stress_name)
        head = "energy" if name == "free_energy" else name
        return head if head in self._model.heads else None
