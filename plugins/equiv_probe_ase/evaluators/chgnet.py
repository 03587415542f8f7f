"""CHGNet: all crystal graphs of a call in one forward and one backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe_ase.evaluators.evaluator import Evaluator, ase_results, gradients_enabled
from equiv_probe_ase.structures.copying import copied

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

_EV_PER_A3_IN_GPA = 160.21766208
"""CHGNet's own constant, to its own digits: the stress is to be the calculator's, not a better one."""


class CHGNetEvaluator(Evaluator):
    """Serves `chgnet.model.CHGNetCalculator`.

    Gives energy, free_energy, forces, stress, magmoms and, where the calculator returns site energies, energies.

    `CHGNet.predict_graph` would batch too, but it differentiates once for forces and once for stress and keeps the
    graph of both for training: on 48 small crystals that costs twice the time and several times the memory. The network
    is the same here; only the derivatives are taken together, and none that is not asked for.
    """

    batched = True
    name = "CHGNet, batched"
    cpu_atoms_per_call = 128

    def __init__(self, calculator: Calculator) -> None:
        from chgnet.model.model import BatchedGraph
        from pymatgen.io.ase import AseAtomsAdaptor

        self.calculator: Any = calculator
        self._to_structure, self._collate = AseAtomsAdaptor.get_structure, BatchedGraph.from_graphs
        # Touched here, so that a release that moved them is noticed before anything is evaluated.
        model = self.calculator.model
        _ = model.graph_converter.forward, model._compute, model.is_intensive, model.composition_model
        _ = model.bond_basis_expansion, model.angle_basis_expansion, model.atom_embedding.embedding.num_embeddings
        _ = self.calculator.stress_weight, self.calculator.return_site_energies

    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """See `Evaluator.evaluate`."""
        for atoms in structures:
            self._check_elements(atoms)
        raw: list[dict[str, Any]] = [{} for _ in structures]
        with gradients_enabled():
            graphs = [self.calculator.model.graph_converter(self._to_structure(copied(atoms))) for atoms in structures]
            for chosen in _by_angles(graphs):
                results = self._run([graphs[i] for i in chosen], set(properties))
                for i, result in zip(chosen, results, strict=True):
                    raw[i] = result
        return [ase_results(r, properties, len(a), "CHGNetCalculator") for r, a in zip(raw, structures, strict=True)]

    def _check_elements(self, atoms: Atoms) -> None:
        # On a GPU an embedding index out of range kills the CUDA context, and with it the rest of the run.
        known = self.calculator.model.atom_embedding.embedding.num_embeddings
        unknown = sorted({str(s) for s, z in zip(atoms.symbols, atoms.numbers, strict=True) if not 1 <= z <= known})
        if unknown:
            raise ValueError(f"CHGNet does not know {', '.join(unknown)}: it was built for atomic numbers 1 to {known}")

    def _run(self, graphs: list[Any], asked: set[str]) -> list[dict[str, Any]]:
        """Run one pass over the graphs; results by ASE name in ASE's units, stress ``(3, 3)``."""
        model = self.calculator.model.eval()
        device = next(model.parameters()).device
        graphs = [graph.to(device) for graph in graphs]
        batch = self._collate(
            graphs,
            bond_basis_expansion=model.bond_basis_expansion,
            angle_basis_expansion=model.angle_basis_expansion,
            compute_stress="stress" in asked,
        )
        site_energies = "energies" in asked and self.calculator.return_site_energies
        output = model._compute(batch, compute_magmom="magmoms" in asked, return_site_energies=site_energies)
        columns = self._energies(output, graphs) | self._derivatives(output, batch, asked)
        if "m" in output:
            columns["magmoms"] = output["m"]
        numpy_columns = {name: [v.detach().cpu().numpy() for v in values] for name, values in columns.items()}
        return [{name: values[i] for name, values in numpy_columns.items()} for i in range(len(graphs))]

    def _energies(self, output: dict[str, Any], graphs: list[Any]) -> dict[str, Any]:
        """Add the composition's reference energy, as `CHGNet.forward` does, and undo the division by atom count."""
        model = self.calculator.model
        energy = output["e"].detach().clone()
        sites = output.get("site_energies")
        if model.composition_model is not None:
            energy += model.composition_model(graphs)
            if sites is not None:
                shifts = model.composition_model.get_site_energies(graphs)
                sites = [site + shift for site, shift in zip(sites, shifts, strict=True)]
        if model.is_intensive:
            energy = energy * output["atoms_per_graph"]
        energies = {"energy": list(energy), "free_energy": list(energy)}
        return energies if sites is None else energies | {"energies": sites}

    def _derivatives(self, output: dict[str, Any], batch: Any, asked: set[str]) -> dict[str, Any]:
        """Return forces in eV/Å and stress in the calculator's unit from one backward pass."""
        leaves = {"forces": batch.atom_positions, "stress": batch.strains}
        wanted = [name for name in leaves if name in asked]
        if not wanted:
            return {}
        counts = output["atoms_per_graph"] if self.calculator.model.is_intensive else 1
        inputs = [leaf for name in wanted for leaf in leaves[name]]
        gradients = torch.autograd.grad((output["e"] * counts).sum(), inputs)
        by_name = {name: gradients[i * len(batch.strains) :][: len(batch.strains)] for i, name in enumerate(wanted)}
        columns = {}
        if "forces" in by_name:
            columns["forces"] = [-gradient for gradient in by_name["forces"]]
        if "stress" in by_name:
            to_gpa = 1 / batch.volumes * _EV_PER_A3_IN_GPA
            columns["stress"] = [
                gradient * scale * self.calculator.stress_weight
                for gradient, scale in zip(by_name["stress"], to_gpa, strict=True)
            ]
        return columns


def _by_angles(graphs: list[Any]) -> list[list[int]]:
    """Group the graphs into those with bond angles and those without; mostly all are of one kind.

    CHGNet skips its bond layers where a whole batch has no angle. With a bias in them (v0.2.0 has one) a structure
    without angles would come out differently in the company of one with angles.
    """
    groups: dict[bool, list[int]] = {}
    for i, graph in enumerate(graphs):
        groups.setdefault(len(graph.bond_graph) > 0, []).append(i)
    return list(groups.values())
