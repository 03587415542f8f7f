"""The two force fields that are compared, both from padded positions and species to energies and forces.

`Transformer` is that of `../force_field`: unconstrained, forces from a head of their own. `PaiNN` is SchNetPack's: its
energy does not change under rotation, and its forces are the gradient of the energy.
"""

from __future__ import annotations

from typing import Literal

import torch
from ase.data import atomic_numbers
from force_field import ELEMENTS, PADDING, Config, Transformer
from schnetpack import properties
from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances
from schnetpack.model import NeuralNetworkPotential
from schnetpack.nn import CosineCutoff, GaussianRBF
from schnetpack.representation import PaiNN
from torch import Tensor, nn

Model = Literal["transformer", "painn"]
CUTOFF = 5.0  # Å


class PaddedPaiNN(nn.Module):
    """SchNetPack's PaiNN with atom-wise energies and their gradient, behind the transformer's signature.

    Args:
        width: features per atom.
        layers: interactions.
        scale: eV; what the atom-wise sum is multiplied with, and so its gradient.
    """

    numbers: Tensor

    def __init__(self, width: int, layers: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("numbers", torch.tensor([0, *(atomic_numbers[e] for e in ELEMENTS)]), persistent=False)
        self.potential = NeuralNetworkPotential(
            representation=PaiNN(width, layers, GaussianRBF(n_rbf=20, cutoff=CUTOFF), CosineCutoff(CUTOFF)),
            input_modules=[PairwiseDistances()],
            output_modules=[Atomwise(width, output_key="energy"), Forces()],
        )

    def forward(self, positions: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate a padded batch; arguments and answer as those of `Transformer`."""
        real = species != PADDING
        count, length = species.shape
        with torch.no_grad():
            apart = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist") < CUTOFF
            near = apart & real[:, :, None] & real[:, None] & ~torch.eye(length, dtype=torch.bool, device=real.device)
            place = (real.flatten().cumsum(0) - 1).view(count, length)  # of every atom among those that are there
            structure, i, j = near.nonzero(as_tuple=True)
        flat = positions[real]
        batch = {
            properties.Z: self.numbers[species[real]],
            properties.R: flat if flat.requires_grad else flat.detach(),
            properties.idx_m: torch.arange(count, device=real.device)[:, None].expand(count, length)[real],
            properties.n_atoms: real.sum(1),
            properties.idx_i: place[structure, i],
            properties.idx_j: place[structure, j],
            properties.offsets: flat.new_zeros(len(i), 3),
        }
        with torch.enable_grad():
            found = self.potential(batch)
        # An output per structure keeps its axis also where there is one structure.
        energy, forces = found["energy"].reshape(count), torch.zeros_like(positions)
        forces = forces.masked_scatter(real[..., None], found["forces"])
        return energy * self.scale, forces * self.scale


def network(model: Model, width: int, layers: int, energy_scale: float, force_scale: float) -> nn.Module:
    """A new network, from torch's global random state.

    Args:
        model: which of the two.
        width: features per atom.
        layers: of attention, or interactions.
        energy_scale: rms of the energies without references, eV.
        force_scale: rms of the force components, eV/Å.
    """
    if model == "painn":
        # Energies change by about the force on an atom when it moves by 1 Å.
        return PaddedPaiNN(width, layers, force_scale)
    # A head takes at least eight numbers; pairs keep pace with the width.
    config = Config(
        width=width,
        heads=max(1, width // 8),
        layers=layers,
        pair_width=3 * width // 4,
        energy_scale=energy_scale,
        force_scale=force_scale,
    )
    return Transformer(config)
