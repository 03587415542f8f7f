"""The transformer of `integrations/force_field` with the gradient of its energy for forces, instead of its second head.

The same network, and so the same broken rotation, but conservative: what dynamics then does to energy and to angular
momentum comes from broken rotation and from the integrator alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from ase import Atoms

sys.path.insert(0, str(Path(__file__).parents[1] / "force_field"))
from transformer import TransformerCalculator, padded
from transformer import calculator as direct_forces


class GradientForces(TransformerCalculator):
    """Energy of the network's first head, and ``F = −∇E``."""

    def calculate_batch(
        self, structures: Sequence[Atoms], properties: Sequence[str]
    ) -> list[dict[str, np.ndarray | float]]:
        """Evaluate molecules of any sizes in one padded pass, as the direct calculator does."""
        stacked, species = padded(structures)
        with torch.enable_grad():
            positions = torch.as_tensor(stacked, dtype=self.dtype, device=self.device).requires_grad_()
            energies, _ = self.network(positions, torch.as_tensor(species, device=self.device))
            (gradient,) = torch.autograd.grad(energies.sum(), positions)
        energy = energies.detach().double().cpu().numpy() + self.references[species].sum(axis=1)
        found: list[dict[str, np.ndarray | float]] = []
        for i, atoms in enumerate(structures):
            # Positions went in about their centroid, and a shift changes nothing: no part of the gradient is a shift.
            forces = -gradient[i, : len(atoms)].double().cpu().numpy()
            found.append({"energy": float(energy[i]), "free_energy": float(energy[i]), "forces": forces})
        return [{name: one[name] for name in properties} for one in found]


def gradient_forces(dtype: str = "float64") -> GradientForces:
    """The trained network as a conservative calculator."""
    direct = direct_forces(dtype=dtype)
    references = torch.as_tensor(direct.references[1:])
    return GradientForces(direct.network, references, device="cpu", dtype=direct.dtype)
