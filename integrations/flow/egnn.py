"""An E(3)-equivariant graph network, after Satorras, Hoogeboom and Welling, *E(n) Equivariant GNNs* (2021).

Every atom talks to every other. Messages see distances alone, and coordinates move along differences of positions:

    m_ij = φ_e(h_i, h_j, ‖x_i − x_j‖²)
    x_i ← x_i + Σ_j (x_i − x_j) / (1 + ‖x_i − x_j‖) φ_x(m_ij) / (N − 1)
    h_i ← h_i + φ_h(h_i, Σ_j m_ij / √N)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformer import centred, time_features


class Layer(nn.Module):
    """One round of messages."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The first linear map of φ_e on (h_i, h_j, d²), in three parts: two are evaluated atom by atom.
        self.receiver, self.sender = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.distance = nn.Linear(1, width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.move = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1, bias=False))
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, x: Tensor, pairs: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(B, N, W)`` and coordinates; ``pairs`` ``(B, N, N)`` is one for two different atoms."""
        squared = (x[:, :, None] - x[:, None]).square().sum(-1)
        m = self.message(self.receiver(h)[:, :, None] + self.sender(h)[:, None] + self.distance(squared[..., None]))
        gathered = torch.einsum("bij,bijw->biw", pairs, m) / atoms.sqrt()
        # The small number keeps the gradient of the root finite for an atom and itself, which do not count.
        reach = self.move(m)[..., 0] * pairs / (1 + (squared + 1e-12).sqrt())
        x = x + (reach.sum(2, keepdim=True) * x - reach @ x) / (atoms - 1).clamp(min=1)
        return h + self.update(torch.cat([h, gathered], -1)), x


class EGNN(nn.Module):
    """Velocity (or noise, or data) from noisy coordinates and the time: how far the layers moved each atom.

    Args:
        kinds: of atoms.
        width: of features and messages.
        layers: rounds of messages.
    """

    def __init__(self, kinds: int, width: int = 32, layers: int = 4) -> None:
        super().__init__()
        self.width = width
        self.kind = nn.Embedding(kinds, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))

    def forward(self, x: Tensor, t: Tensor, z: Tensor, mask: Tensor) -> Tensor:
        """A vector for each atom, ``(B, N, 3)``, of sum zero; arguments as of the transformer."""
        start = centred(x, mask)
        pairs = (mask[:, :, None] & mask[:, None]) & ~torch.eye(mask.shape[1], dtype=torch.bool, device=x.device)
        counted = pairs.to(x.dtype)
        atoms = mask.sum(1)[:, None, None].to(x.dtype)
        h, moved = self.kind(z) + self.time(time_features(t, self.width))[:, None], start
        for layer in self.layers:
            h, moved = layer(h, moved, counted, atoms)
        return centred(moved - start, mask)
