"""Small networks, each with one planted layer that breaks symmetry, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

ATOMS, WIDTH = 6, 8
FORCES = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
ENERGY = ep.Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar})


def molecule(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"pos": (1.2 * torch.randn(ATOMS, 3, generator=generator, dtype=torch.float64) + 0.5).to(dtype)}


def mlp(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inside, WIDTH), nn.SiLU(), nn.Linear(WIDTH, outside))


@dataclass(frozen=True)
class Planted:
    """A network family: makes a model with its input and schema, and says which layer is planted.

    Attributes:
        make: from a seed and the planted layer, or None.
        layers: that can be planted; the path of the module that must be named.
    """

    make: Callable[[int, str | None], tuple[nn.Module, Any, ep.Schema]]
    layers: tuple[str, ...]


# -- EGNN (Satorras et al., arXiv:2102.09844) --------------------------------------------------------------------------


class Shift(nn.Module):
    """How far atoms move along an edge; planted, by the axes of the laboratory."""

    def __init__(self, planted: bool) -> None:
        super().__init__()
        self.weight, self.planted = mlp(WIDTH, 1), planted

    def forward(self, message: Tensor, apart: Tensor) -> Tensor:
        moved = apart * self.weight(message)
        return moved * torch.tensor([1.0, 1.0, 1.2 if self.planted else 1.0]).to(moved)


class Message(nn.Module):
    """Messages from distances; planted, from a difference along x as well."""

    def __init__(self, planted: bool) -> None:
        super().__init__()
        self.net, self.planted = mlp(2 * WIDTH + 1, WIDTH), planted

    def forward(self, h: Tensor, apart: Tensor) -> Tensor:
        square = apart.square().sum(-1, keepdim=True)
        seen = square + 0.3 * apart[..., :1] if self.planted else square
        pairs = h[:, None].expand(-1, len(h), -1), h[None].expand(len(h), -1, -1)
        return self.net(torch.cat([*pairs, seen], -1))


class EGNNLayer(nn.Module):
    def __init__(self, planted: str) -> None:
        super().__init__()
        self.message, self.shift = Message(planted == "message"), Shift(planted == "shift")
        self.update = mlp(2 * WIDTH, WIDTH)

    def forward(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        apart = x[:, None] - x[None]
        message = self.message(h, apart)
        x = x + 0.1 * self.shift(message, apart).mean(1)
        return h + self.update(torch.cat([h, message.mean(1)], -1)), x


class EGNN(nn.Module):
    def __init__(self, planted: str | None) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(ATOMS, WIDTH))
        self.layers = nn.ModuleList(
            EGNNLayer(planted.rpartition(".")[2] if planted and planted.startswith(f"layers.{k}.") else "")
            for k in range(3)
        )

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        h, x = self.embed, pos
        for layer in self.layers:
            h, x = layer(h, x)
        return {"forces": x - pos}


def egnn(seed: int, planted: str | None) -> tuple[nn.Module, Any, ep.Schema]:
    torch.manual_seed(seed)
    return EGNN(planted).double(), molecule(seed), FORCES


# -- a point transformer with attention by distances -------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, planted: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.bias = mlp(1, 1)
        self.place = nn.Linear(3, WIDTH) if planted else None

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        apart = (x[:, None] - x[None]).norm(dim=-1, keepdim=True)
        queries = self.query(h) if self.place is None else self.query(h) + 0.3 * self.place(x - x.mean(0))
        score = (queries @ self.key(h).mT) / WIDTH**0.5 + self.bias(apart)[..., 0]
        return score.softmax(-1) @ self.value(h)


class Block(nn.Module):
    def __init__(self, planted: bool) -> None:
        super().__init__()
        self.attention, self.feed = Attention(planted), mlp(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        h = h + self.attention(self.norm(h), x)
        return h + self.feed(h)


class Transformer(nn.Module):
    def __init__(self, planted: str | None) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(ATOMS, WIDTH))
        self.blocks = nn.ModuleList(Block(planted == f"blocks.{k}.attention.place") for k in range(3))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        h = self.embed
        for block in self.blocks:
            h = block(h, pos)
        return {"energy": self.head(h).sum()}


def transformer(seed: int, planted: str | None) -> tuple[nn.Module, Any, ep.Schema]:
    torch.manual_seed(seed)
    return Transformer(planted).double(), molecule(seed), ENERGY


FAMILIES = {
    "egnn": Planted(egnn, tuple(f"layers.{k}.{part}" for k in range(3) for part in ("message", "shift"))),
    "transformer": Planted(transformer, tuple(f"blocks.{k}.attention.place" for k in range(3))),
}
