"""A transformer, one that respects rotation, and an equivariant graph network: moving points, to displacements."""

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


class EquivariantBlock(nn.Module):
    """The same block on tokens of numbers and of vectors: attention and a perceptron that no rotation changes.

    A token is `width` numbers and half as many vectors. Queries and keys join both, so that logits are inner products
    of numbers and of vectors; their weights mix numbers with numbers and vectors with vectors. The perceptron sees
    numbers and inner products of the token's own vectors, and scales vectors by numbers. Vectors go through linear
    maps of their channels, without a bias.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, channels = heads, width // 2
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.collect = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.project_vectors = nn.Linear(channels, 3 * channels, bias=False)
        self.collect_vectors = nn.Linear(channels, channels, bias=False)
        self.pair = nn.Linear(channels, 2 * channels, bias=False)
        self.perceptron = nn.Sequential(
            nn.Linear(width + channels, 2 * width), nn.GELU(), nn.Linear(2 * width, width + channels)
        )
        self.mix = nn.Linear(channels, channels, bias=False)

    def forward(self, numbers: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers ``(B, P, W)`` and vectors ``(B, P, 3, W/2)``."""
        width, channels = numbers.shape[-1], vectors.shape[-1]
        split = (3, self.heads, -1)
        of_numbers = self.project(self.before(numbers)).unflatten(-1, split).permute(2, 0, 3, 1, 4)
        of_vectors = self.project_vectors(normed(vectors)).unflatten(-1, split).permute(3, 0, 4, 1, 2, 5).flatten(-2)
        q, k, v = torch.cat([of_numbers, of_vectors], -1)
        attended = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v
        first, second = attended.transpose(1, 2).split([width // self.heads, 3 * channels // self.heads], -1)
        numbers = numbers + self.collect(first.flatten(2))
        vectors = vectors + self.collect_vectors(second.unflatten(-1, (3, -1)).transpose(2, 3).flatten(-2))
        a, b = self.pair(normed(vectors)).chunk(2, -1)
        changed = self.perceptron(torch.cat([self.between(numbers), (a * b).sum(-2)], -1))
        return numbers + changed[..., :width], vectors + self.mix(a * changed[..., None, width:])


def normed(vectors: Tensor) -> Tensor:
    """Vectors ``(…, 3, C)`` of a root mean square length of one over channels."""
    return vectors * torch.rsqrt(vectors.square().sum(-2, keepdim=True).mean(-1, keepdim=True) + 1e-3)


class EquivariantTransformer(nn.Module):
    """The transformer, equivariant by construction: of positions and velocities, numbers see inner products alone.

    Args:
        width: numbers of a token, which has half as many vectors.
        layers: blocks.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.place, self.aim = nn.Linear(3 + 1 + BODY, width), nn.Linear(2, width // 2, bias=False)
        self.body = nn.ModuleList(EquivariantBlock(width, max(1, width // 16)) for _ in range(layers))
        self.read = nn.Linear(width // 2, 1, bias=False)

    def forward(self, position: Tensor, velocity: Tensor, mass: Tensor) -> Tensor:
        """Arguments and output as of the transformer."""
        motion = torch.stack([position, velocity], -1)
        lengths = torch.stack([(position * position).sum(-1), (velocity * velocity).sum(-1)], -1).log1p()
        along = (position * velocity).sum(-1, keepdim=True)
        numbers, vectors = self.place(torch.cat([lengths, along, features(mass)], -1)), self.aim(motion)
        for block in self.body:
            numbers, vectors = block(numbers, vectors)
        output: Tensor = self.read(vectors).squeeze(-1)
        return output


class Framed(nn.Module):
    """The transformer itself, averaged over the four proper frames of the points' principal axes (Puny et al., 2022).

    The same weights and the same products of matrices, four times: what differs from the transformer is symmetry alone.
    Where two principal moments cross, the frames jump.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.inner = Transformer(width, layers)

    def forward(self, position: Tensor, velocity: Tensor, mass: Tensor) -> Tensor:
        """Arguments and output as of the transformer; positions are relative to the centre of mass."""
        with torch.no_grad():
            _, axes = torch.linalg.eigh(position.mT @ position)
            signs = axes.new_tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]])
            two = axes[..., :2] * signs[:, None, None]
            frames = torch.cat([two, torch.linalg.cross(two[..., 0], two[..., 1])[..., None]], -1)
        x, v, m = position @ frames, velocity @ frames, mass.expand(4, *mass.shape)
        outputs = self.inner(*(value.flatten(0, 1) for value in (x, v, m))).unflatten(0, (4, -1))
        return (outputs @ frames.mT).mean(0)


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
