"""Four force fields between invariant and unconstrained, behind one pair of functions: `batch` and `forces_of`.

``escaip``: fairchem's, invariant up to the three rows of its head. ``absolute``: the same, with every edge's direction
in the frame of the data among its features. ``free``: that, and forces are three numbers read off an atom's features
instead of sums over directions of edges. ``coordinates``: the transformer of ``../force_field``, whose tokens and pairs
see x, y and z from the first layer on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import escaip
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

sys.path.append(str(Path(__file__).parents[1] / "force_field"))
import transformer

Model = Literal["escaip", "absolute", "free", "coordinates"]


class Coordinates(nn.Module):
    """The coordinate transformer of `../force_field`; of its two outputs, the forces.

    Args:
        width: features per atom.
        layers: of attention.
        scale: rms of the force components, eV/Å.
    """

    def __init__(self, width: int, layers: int, scale: float) -> None:
        super().__init__()
        config = transformer.Config(width=width, heads=width // 8, layers=layers, pair_width=3 * width // 4)
        self.net = transformer.Transformer(config._replace(force_scale=scale))
        self.net.energy.requires_grad_(requires_grad=False)

    def forward(self, positions: Tensor, species: Tensor) -> Tensor:
        """Forces (B, N, 3) in eV/Å, zero where padded."""
        found: Tensor = self.net(positions, species)[1]
        return found


def network(model: Model, size: escaip.SizeName, neighbours: int, scale: float, seed: int) -> nn.Module:
    """A new network from its seed; sizes are fairchem's, and for ``coordinates`` the width and three layers.

    Args:
        model: which of the four.
        size: a key of `escaip.SIZES`.
        neighbours: as many as lie within 6 Å of an atom.
        scale: rms of the force components, eV/Å.
        seed: of the weights.
    """
    if model == "coordinates":
        torch.manual_seed(seed)
        return Coordinates(escaip.SIZES[size].width, 3, scale)
    return escaip.escaip(size, neighbours=neighbours, seed=seed, absolute=model != "escaip", free=model == "free")


def batch(model: nn.Module, chosen: Sequence[Any], rotations: Tensor | None = None) -> Any:
    """Structures as the network takes them, each rotated about its centroid by its own of ``rotations`` (B, 3, 3)."""
    device = next(model.parameters()).device
    if not isinstance(model, Coordinates):
        return escaip.batch(chosen, rotations).to(device)
    positions, species = (torch.as_tensor(one) for one in transformer.padded(chosen))
    if rotations is not None:
        positions = torch.einsum("bij,bnj->bni", rotations.double(), positions)
    return positions.float().to(device), species.to(device)


def forces_of(model: nn.Module, data: Any) -> Tensor:
    """The model's forces on all atoms, ``(N, 3)`` in eV/Å, padding left out."""
    if not isinstance(model, Coordinates):
        return escaip.forces_of(model, data)
    found: Tensor = model(*data)
    return found[data[1] != transformer.PADDING]
