"""A representation for SchNetPack that nobody taught about rotation: a small transformer on raw coordinates.

Atoms are tokens. Every layer attends over all atoms of the molecule, with each pair's displacement, its x, y and z fed
to ordinary perceptrons, as bias and as message. Translations and the order of like atoms are respected by construction;
rotations only as far as training teaches them. In a SchNetPack model it stands where SchNet, PaiNN or SO3net would:
``model/representation=unconstrained``. `DirectForces` is an output module that reads forces off it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from schnetpack import properties
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class Layer(nn.Module):
    """Masked self-attention with pair features as bias and as message, then a perceptron per atom.

    The attention is written out: where forces are a derivative, training differentiates them again, and torch's fused
    attention cannot be differentiated twice.
    """

    def __init__(self, width: int, pair_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.project = nn.Linear(width, 3 * width)
        self.bias = nn.Linear(pair_width, heads)
        self.message = nn.Linear(width + heads * pair_width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, pairs: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, A, D) from tokens (B, A, D), pairs (B, A, A, P) and the mask (B, A) of atoms that are there."""
        b, a, width = tokens.shape
        split = self.project(self.norms[0](tokens)).view(b, a, 3, self.heads, width // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        logits = queries @ keys.mT / math.sqrt(width / self.heads) + self.bias(pairs).permute(0, 3, 1, 2)
        attention = logits.masked_fill(~mask[:, None, None, :], -math.inf).softmax(-1)
        of_atoms = (attention @ values).transpose(1, 2).reshape(b, a, width)
        of_pairs = (attention.transpose(1, 2) @ pairs).reshape(b, a, -1)
        tokens = tokens + self.message(torch.cat([of_atoms, of_pairs], -1))
        out: Tensor = tokens + self.perceptron(self.norms[1](tokens))
        return out


class Unconstrained(nn.Module):
    """Raw coordinates and elements to ``scalar_representation`` (N, D).

    Args:
        n_atom_basis: width D.
        n_interactions: layers.
        pair_width: of the features of pairs.
        heads: of attention.
        n_rbf: radial functions, up to 6 Å.
        max_z: largest atomic number, plus one.
    """

    def __init__(
        self,
        n_atom_basis: int = 64,
        n_interactions: int = 3,
        *,
        pair_width: int = 32,
        heads: int = 8,
        n_rbf: int = 16,
        max_z: int = 20,
    ) -> None:
        super().__init__()
        self.n_atom_basis = n_atom_basis
        self.embedding = nn.Embedding(max_z, n_atom_basis)
        self.coordinates = nn.Linear(3, n_atom_basis)
        self.register_buffer("centres", torch.linspace(0.7, 6.0, n_rbf), persistent=False)
        self.elements = nn.ModuleList([nn.Embedding(max_z, pair_width), nn.Embedding(max_z, pair_width)])
        self.geometry = nn.Linear(n_rbf + 6, pair_width)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(pair_width, pair_width), nn.SiLU())
        self.layers = nn.ModuleList(Layer(n_atom_basis, pair_width, heads) for _ in range(n_interactions))
        self.norm = nn.LayerNorm(n_atom_basis)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """SchNetPack's batch, with the representation written into it."""
        x, index, sizes = inputs[properties.R], inputs[properties.idx_m], inputs[properties.n_atoms]
        x = x - (x.new_zeros(len(sizes), 3).index_add(0, index, x) / sizes[:, None])[index]
        place = torch.arange(len(x), device=x.device) - (sizes.cumsum(0) - sizes)[index]
        shape = len(sizes), int(sizes.max())
        positions = x.new_zeros(*shape, 3).index_put((index, place), x)
        z = inputs[properties.Z].new_zeros(shape).index_put((index, place), inputs[properties.Z])
        mask = torch.arange(shape[1], device=x.device) < sizes[:, None]
        pairs = self._pairs(positions, z)
        tokens = self.embedding(z) + self.coordinates(positions)
        for layer in self.layers:
            tokens = layer(tokens, pairs, mask)
        inputs["scalar_representation"] = self.norm(tokens)[index, place]
        return inputs

    def _pairs(self, positions: Tensor, z: Tensor) -> Tensor:
        displacement = positions[:, None] - positions[:, :, None]
        # The constant keeps the direction from an atom to itself finite: zero.
        distance = (displacement.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        spacing = self.centres[1] - self.centres[0]
        radial = torch.exp(-((distance - self.centres) / spacing).square())
        features = self.geometry(torch.cat([radial, displacement, displacement / distance], -1))
        out: Tensor = self.mix(features + self.elements[0](z)[:, :, None] + self.elements[1](z)[:, None])
        return out


class DirectForces(nn.Module):
    """Forces (N, 3) read off the representation: no gradient of the energy, and no vector by construction.

    Args:
        n_in: width of the representation.
        force_key: under which they are written.
    """

    def __init__(self, n_in: int, force_key: str = properties.forces) -> None:
        super().__init__()
        self.force_key = force_key
        self.model_outputs = [force_key]
        self.head = nn.Sequential(nn.Linear(n_in, n_in), nn.SiLU(), nn.Linear(n_in, 3))

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """SchNetPack's batch, with the forces written into it."""
        inputs[self.force_key] = self.head(inputs["scalar_representation"])
        return inputs
