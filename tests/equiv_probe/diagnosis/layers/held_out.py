"""Networks that no limit of a trace was chosen on: another architecture, other irreps with gates, other widths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import equiv_probe as ep

from .networks import ATOMS, Planted, _tilted, molecule, painn


def schnet(seed: int, planted: str | None) -> tuple[nn.Module, Any, ep.Schema | None]:
    """SchNet of SchNetPack, 24 wide; planted, an interaction whose output depends on a coordinate."""
    import schnetpack as spk

    torch.manual_seed(seed)
    network = spk.representation.SchNet(
        n_atom_basis=24,
        n_interactions=3,
        radial_basis=spk.nn.GaussianRBF(n_rbf=12, cutoff=4.0),
        cutoff_fn=spk.nn.CosineCutoff(4.0),
    )
    heads = [spk.atomistic.Atomwise(n_in=24, output_key="energy"), spk.atomistic.Forces()]
    model = spk.model.NeuralNetworkPotential(network, [spk.atomistic.PairwiseDistances()], heads)
    if planted is not None:
        seen: dict[str, Tensor] = {}
        model.register_forward_pre_hook(lambda _, given: seen.update(x=given[0]["_positions"]))
        model.get_submodule(planted).register_forward_hook(
            lambda _, given, output: output + 0.1 * (seen["x"] - seen["x"].mean(0))[:, :1]
        )
    return model, painn(seed, None)[1], None


class Gated(nn.Module):
    """Tensor products and gates of e3nn with irreps of both parities up to degree three; the gate is called twice."""

    def __init__(self, planted: str | None) -> None:
        super().__init__()
        from e3nn import nn as of_e3nn
        from e3nn import o3

        edges, gated = o3.Irreps.spherical_harmonics(3), o3.Irreps("4x1o+2x1e+2x2e+1x2o+1x3o")
        acts = [nn.functional.silu, torch.tanh]
        self.harmonics = o3.SphericalHarmonics(edges, normalize=True, normalization="component")
        self.embed = nn.Parameter(torch.randn(ATOMS, 6))
        self.gate = of_e3nn.Gate("6x0e+2x0o", acts, "10x0e", [torch.sigmoid], gated)
        inside = ("6x0e", self.gate.irreps_out)
        self.products = nn.ModuleList(o3.FullyConnectedTensorProduct(i, edges, self.gate.irreps_in) for i in inside)
        self.head = o3.Linear(self.gate.irreps_out, "1x1o+1x0e")
        if planted is not None:
            self.get_submodule(planted).register_forward_hook(_tilted)

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        apart = pos[:, None] - pos[None]
        edges = self.harmonics(apart) * (-apart.square().sum(-1, keepdim=True) / 4).exp()
        h = self.embed
        for product in self.products:
            h = self.gate(product(h[None].expand(len(h), -1, -1), edges).mean(1))
        found = self.head(h)
        return {"forces": found[:, :3], "energy": found[:, 3].sum()}


def gated(seed: int, planted: str | None) -> tuple[nn.Module, Any, ep.Schema]:
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)  # the constants of tensor products are rounded to it
    schema = ep.Schema({"pos": ep.point}, {"forces": ep.vector, "energy": ep.scalar})
    try:
        return Gated(planted), molecule(seed), schema
    finally:
        torch.set_default_dtype(torch.float32)


HELD_OUT = {
    "schnet": Planted(schnet, tuple(f"representation.interactions.{k}" for k in range(3))),
    "gated": Planted(gated, ("harmonics", "products.0", "products.1", "gate")),
}
