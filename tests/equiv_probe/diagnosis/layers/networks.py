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

    make: Callable[[int, str | None], tuple[nn.Module, Any, ep.Schema | None]]
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


# -- a network of e3nn -------------------------------------------------------------------------------------------------


class E3NN(nn.Module):
    """Two layers of tensor products with spherical harmonics of edges; planted, columns that grow."""

    def __init__(self, planted: str | None) -> None:
        super().__init__()
        from e3nn import o3

        hidden, edges = o3.Irreps("4x0e + 3x1o + 2x2e"), o3.Irreps("0e + 1o + 2e")
        self.harmonics = o3.SphericalHarmonics(edges, normalize=True)
        self.embed = nn.Parameter(torch.randn(ATOMS, 4))
        self.products, self.mixes = nn.ModuleList(), nn.ModuleList()
        for k in range(2):
            inside = o3.Irreps("4x0e") if k == 0 else hidden
            self.products.append(o3.FullyConnectedTensorProduct(inside, edges, hidden))
            self.mixes.append(o3.Linear(hidden, hidden))
        self.head = o3.Linear(hidden, "1x1o")
        if planted is not None:
            self.get_submodule(planted).register_forward_hook(_tilted)

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        apart = pos[:, None] - pos[None]
        edges = self.harmonics(apart) * (-apart.square().sum(-1, keepdim=True) / 4).exp()
        h = self.embed
        for product, mix in zip(self.products, self.mixes, strict=True):
            h = mix(product(h[None].expand(len(h), -1, -1), edges).mean(1))
        return {"forces": self.head(h)}


def _tilted(module: nn.Module, given: Any, output: Tensor) -> Tensor:
    """Every fifth column grows: no rotation does that. It is the planted defect, as a hook."""
    return output * torch.where(torch.arange(output.shape[-1]) % 5 == 2, 1.3, 1.0)


def e3nn(seed: int, planted: str | None) -> tuple[nn.Module, Any, ep.Schema]:
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)  # the constants of tensor products are rounded to it
    try:
        return E3NN(planted), molecule(seed), FORCES
    finally:
        torch.set_default_dtype(torch.float32)


# -- PaiNN of SchNetPack -----------------------------------------------------------------------------------------------


def painn(seed: int, planted: str | None) -> tuple[nn.Module, Any, ep.Schema | None]:
    import schnetpack as spk
    from schnetpack.representation import PaiNN

    torch.manual_seed(seed)
    network = PaiNN(
        n_atom_basis=WIDTH,
        n_interactions=2,
        radial_basis=spk.nn.GaussianRBF(n_rbf=6, cutoff=4.0),
        cutoff_fn=spk.nn.CosineCutoff(4.0),
    )
    heads = [spk.atomistic.Atomwise(n_in=WIDTH, output_key="energy"), spk.atomistic.Forces()]
    model = spk.model.NeuralNetworkPotential(network, [spk.atomistic.PairwiseDistances()], heads)
    if planted is not None:
        stretched = torch.tensor([1.0, 1.0, 1.3])[:, None]
        model.get_submodule(planted).register_forward_hook(lambda module, given, output: output * stretched)
    first, second = torch.where(~torch.eye(ATOMS, dtype=torch.bool))
    batch = {
        "_positions": molecule(seed, torch.float32)["pos"],
        "_atomic_numbers": torch.tensor([6, 1, 8, 1, 6, 1]),
        "_idx_m": torch.zeros(ATOMS, dtype=torch.long),
        "_n_atoms": torch.tensor([ATOMS]),
        "_idx_i": first,
        "_idx_j": second,
        "_offsets": torch.zeros(len(first), 3),
        "_cell": torch.zeros(1, 3, 3),
        "_pbc": torch.zeros(3, dtype=torch.bool),
    }
    return model, batch, None


# -- a U-Net on grids --------------------------------------------------------------------------------------------------


class Symmetric(nn.Module):
    """A convolution with an isotropic kernel; planted, with any kernel."""

    def __init__(self, inside: int, outside: int, planted: bool) -> None:
        super().__init__()
        self.weight, self.planted = nn.Parameter(torch.randn(outside, inside, 3, 3, 3) / 8), planted
        axis = torch.tensor([-1, 0, 1])
        self.shells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).square().sum(0)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight
        if not self.planted:
            kernel = torch.stack([self.weight[:, :, 1, 1, k % 3] for k in range(4)], -1)[..., self.shells]
        return nn.functional.conv3d(x, kernel, padding=1)


class UNet(nn.Module):
    def __init__(self, planted: str | None) -> None:
        super().__init__()
        self.down = nn.ModuleList(Symmetric(i, o, planted == f"down.{k}") for k, (i, o) in enumerate([(1, 4), (4, 4)]))
        self.pool, self.grow = nn.AvgPool3d(2), nn.Upsample(scale_factor=2)
        self.bottom = Symmetric(4, 4, planted == "bottom")
        self.up = nn.ModuleList(Symmetric(8, 4, planted == f"up.{k}") for k in range(2))
        self.last = nn.Conv3d(4, 1, 1)

    def forward(self, density: Tensor) -> Tensor:
        kept = []
        x = density
        for layer in self.down:
            x = nn.functional.silu(layer(x))
            kept.append(x)
            x = self.pool(x)
        x = nn.functional.silu(self.bottom(x))
        for layer in self.up:
            x = nn.functional.silu(layer(torch.cat([self.grow(x), kept.pop()], 1)))
        return self.last(x)


def unet(seed: int, planted: str | None) -> tuple[nn.Module, Any, ep.Schema]:
    torch.manual_seed(seed)
    grids = ep.Schema(inputs={"density": ep.grid()}, outputs={"density": ep.grid()})
    return UNet(planted), torch.randn(1, 1, 8, 8, 8), grids


FAMILIES = {
    "egnn": Planted(egnn, tuple(f"layers.{k}.{part}" for k in range(3) for part in ("message", "shift"))),
    "transformer": Planted(transformer, tuple(f"blocks.{k}.attention.place" for k in range(3))),
    "e3nn": Planted(e3nn, ("harmonics", "products.0", "mixes.0", "products.1", "mixes.1", "head")),
    "painn": Planted(painn, ("representation.mixing.0.mu_channel_mix", "representation.mixing.1.mu_channel_mix")),
    "unet": Planted(unet, ("down.0", "down.1", "bottom", "up.0", "up.1")),
}
