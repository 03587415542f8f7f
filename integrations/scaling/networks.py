"""An unconstrained transformer and an equivariant network of one task: points that move, to their displacements."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BODY = 3
"""Points of a body follow one another."""


class Block(nn.Module):
    """Attention and a perceptron, each after normalisation; written out, so that every product is counted."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.collect = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, P, W)``."""
        q, k, v = self.project(self.before(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v
        tokens = tokens + self.collect(attended.transpose(1, 2).flatten(2))
        return tokens + self.perceptron(self.between(tokens))


def features(mass: Tensor) -> Tensor:
    """What a network knows of a point beside its motion: the logarithm of its mass and its body, ``(B, P, 4)``."""
    body = torch.arange(mass.shape[-1], device=mass.device) // BODY
    marks = (body[:, None] == torch.arange(BODY, device=mass.device)).to(mass.dtype)
    return torch.cat([mass.log()[..., None], marks.expand(*mass.shape, BODY)], -1)


class Transformer(nn.Module):
    """Points are tokens with raw coordinates and velocities; nothing in it knows of rotation.

    Args:
        width: of a token.
        layers: blocks.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.place = nn.Linear(6 + 1 + BODY, width)
        self.body = nn.Sequential(*(Block(width, max(1, width // 16)) for _ in range(layers)), nn.LayerNorm(width))
        self.read = nn.Linear(width, 3)

    def forward(self, position: Tensor, velocity: Tensor, mass: Tensor) -> Tensor:
        """Displacements ``(B, P, 3)`` from positions, velocities ``(B, P, 3)`` and masses ``(B, P)``."""
        output: Tensor = self.read(self.body(self.place(torch.cat([position, velocity, features(mass)], -1))))
        return output


class Exchange(nn.Module):
    """One round of messages of an equivariant graph network whose points have a position and a velocity.

    After Satorras, Hoogeboom and Welling, *E(n) Equivariant GNNs* (2021): messages see invariants alone, and both
    vectors move along differences of both.

        m_ij = φ_e(h_i, h_j, ‖x_ij‖², ‖v_ij‖², x_ij · v_ij)
        x_i ← x_i + Σ_j (a_ij x_ij + b_ij v_ij) / (P − 1) + c_i v_i
        v_i ← v_i + Σ_j (d_ij x_ij + e_ij v_ij) / (P − 1)
        h_i ← h_i + φ_h(h_i, Σ_j m_ij / √P)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.receiver, self.sender = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.pair = nn.Linear(3, width, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.move = nn.Linear(width, 4, bias=False)
        self.drift = nn.Linear(width, 1)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``(B, P, W)`` and the two vectors ``(B, P, 3)``."""
        count = x.shape[1]
        xx, xv, vv = x @ x.mT, x @ v.mT, v @ v.mT
        near, fast = (p.diagonal(dim1=1, dim2=2) for p in (xx, vv))
        cross = xv.diagonal(dim1=1, dim2=2)
        invariants = torch.stack(
            [
                torch.log1p((near[:, :, None] + near[:, None] - 2 * xx).clamp(min=0)),
                torch.log1p((fast[:, :, None] + fast[:, None] - 2 * vv).clamp(min=0)),
                cross[:, :, None] + cross[:, None] - xv - xv.mT,
            ],
            -1,
        )
        m = self.message(self.receiver(h)[:, :, None] + self.sender(h)[:, None] + self.pair(invariants))
        # A point and itself: the differences are zero, so only the sum of messages counts it, as one more feature.
        along = self.move(m).permute(3, 0, 1, 2) / (count - 1)
        a, b, d, e = along.sum(-1, keepdim=True)
        pushed = a * x - along[0] @ x + b * v - along[1] @ v + self.drift(h) * v
        rotated = d * x - along[2] @ x + e * v - along[3] @ v
        h = h + self.update(torch.cat([h, m.sum(2) / count**0.5], -1))
        return h, x + pushed, v + rotated


class EGNN(nn.Module):
    """Displacements: how far the rounds of messages moved each point; equivariant by construction.

    Args:
        width: of features and messages.
        layers: rounds of messages.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.know = nn.Linear(1 + BODY, width)
        self.layers = nn.ModuleList(Exchange(width) for _ in range(layers))

    def forward(self, position: Tensor, velocity: Tensor, mass: Tensor) -> Tensor:
        """Arguments and output as of the transformer."""
        h, x, v = self.know(features(mass)), position, velocity
        for layer in self.layers:
            h, x, v = layer(h, x, v)
        return x - position
