"""Networks for tests of the probe on a live module: what they break is known, or random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import equiv_probe as ep

if TYPE_CHECKING:
    from equiv_probe.testing import PlantedModel

FORCES = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
BOTH = ep.Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar, "forces": ep.vector})


class Unseen:
    """Counts what is run again too: probes leave alone what seems to be of their own package, and put nothing back."""

    __module__ = "equiv_probe"

    def __init__(self, start: int = 1) -> None:
        self.number, self.noted = start, []

    def next(self) -> int:
        """The next number."""
        self.number += 1
        return self.number - 1

    def note(self, value: Any) -> None:
        """Keep a value."""
        self.noted.append(value)


class Planted(nn.Module):
    """A planted model as a module."""

    def __init__(self, model: PlantedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return dict(self.model(pos))


class Noisy(nn.Module):
    """Batch norm and dropout: a network with buffers and a thirst for random numbers, ``(B, N, 3)`` to forces."""

    def __init__(self, atoms: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3 * atoms, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.Dropout(0.2), nn.Linear(32, 3 * atoms)
        )
        self.calls = 0

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        x = pos - pos.mean(-2, keepdim=True)
        return {"forces": self.layers(x.flatten(1)).reshape(x.shape)}


class Energy(nn.Module):
    """A random energy of positions ``(B, N, 3)`` with forces by autograd, inside or left to the caller."""

    def __init__(self, atoms: int = 4, *, inside: bool = True) -> None:
        super().__init__()
        self.inside = inside
        self.layers = nn.Sequential(nn.Linear(3 * atoms, 16), nn.Tanh(), nn.Linear(16, 1)).double()

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        if self.inside:
            pos = pos if pos.requires_grad else pos.requires_grad_()
        x = pos - pos.mean(-2, keepdim=True)
        energy = self.layers(x.flatten(1))[:, 0]
        if not self.inside:
            return {"energy": energy}
        (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=self.training)
        return {"energy": energy, "forces": -gradient}


class Mutating(nn.Module):
    """Writes into its input dict, and asks for gradients on it, as SchNetPack's models do; one flat batch."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3, 3, dtype=torch.float64))

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        positions = inputs["_positions"]
        positions.requires_grad_()
        index = inputs["_idx_m"]
        count = len(inputs["_n_atoms"])
        centre = torch.zeros(count, 3, dtype=positions.dtype).index_add(0, index, positions)
        x = positions - (centre / inputs["_n_atoms"][:, None])[index]
        each = torch.einsum("ni,ij,nj->n", x, self.matrix, x)
        inputs["energy"] = torch.zeros(count, dtype=each.dtype).index_add(0, index, each)
        (gradient,) = torch.autograd.grad(inputs["energy"].sum(), positions, create_graph=self.training)
        inputs["forces"] = -gradient
        return {name: inputs[name] for name in ("energy", "forces")}


MUTATING = ep.Schema(inputs={"_positions": ep.point}, outputs={"energy": ep.scalar, "forces": ep.vector})


def mutating_batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([3, 5, 4])
    return {
        "_positions": torch.randn(12, 3, generator=generator, dtype=torch.float64),
        "_idx_m": torch.arange(3).repeat_interleave(sizes),
        "_n_atoms": sizes,
    }
