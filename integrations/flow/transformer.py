"""An unconstrained transformer on raw coordinates: atoms are tokens, and nothing in it knows of rotation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def time_features(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of a time in [0, 1], ``(B,)`` to ``(B, width)``."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), width // 2, device=t.device, dtype=t.dtype))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


def centred(x: Tensor, mask: Tensor) -> Tensor:
    """Zero in empty slots, and zero centre of mass, ``(B, N, 3)``."""
    held = mask[..., None]
    x = torch.where(held, x, 0.0)  # not a product: empty slots may hold anything, NaN too
    return torch.where(held, x - x.sum(1, keepdim=True) / held.sum(1, keepdim=True), 0.0)


class Transformer(nn.Module):
    """Velocity (or noise, or data) from noisy coordinates and the time.

    Args:
        kinds: of atoms.
        width: of a token.
        layers: blocks.
        heads: of attention; must divide the width.
    """

    def __init__(self, kinds: int, width: int = 96, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.width = width
        self.kind = nn.Embedding(kinds, width)
        self.place = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        block = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.read = nn.Linear(width, 3)

    def forward(self, x: Tensor, t: Tensor, z: Tensor, mask: Tensor) -> Tensor:
        """A vector for each atom, ``(B, N, 3)``, of sum zero.

        Args:
            x: noisy coordinates ``(B, N, 3)``.
            t: ``(B,)``.
            z: kinds ``(B, N)``.
            mask: which slots hold an atom, ``(B, N)``.
        """
        tokens = self.kind(z) + self.place(centred(x, mask)) + self.time(time_features(t, self.width))[:, None]
        return centred(self.read(self.body(tokens, src_key_padding_mask=~mask)), mask)
