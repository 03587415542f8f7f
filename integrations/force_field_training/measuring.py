"""Both losses and the share of a force field on a fixed set, for forces and energies, squared and norm-wise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from force_field import PADDING
from torch import Tensor, nn

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

Loss = Literal["mse", "mae-norm"]
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda found, label: (found - label).square(),
    "mae-norm": lambda found, label: torch.linalg.vector_norm(found - label, dim=-1),
}
CHUNK = 240  # structures in one pass: more are slower on a CPU, for want of cache
SEED = 2**20  # of the rotations, the same at every step and in every run


class Batch(NamedTuple):
    """Positions (B, N, 3) in Å, species (B, N), energies per atom (B,) in eV and forces (B, N, 3) in eV/Å."""

    positions: Tensor
    species: Tensor
    energy: Tensor
    forces: Tensor


def predict(net: nn.Module, positions: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
    """Energies per atom (B,) in eV, without the references, and forces (B, N, 3) in eV/Å."""
    energies, forces = net(positions, species)
    return energies / (species != PADDING).sum(1), forces


def schema() -> ep.Schema:
    """How inputs and outputs of `predict` rotate."""
    return ep.Schema(inputs={"positions": ep.point}, outputs={"energy": ep.scalar, "forces": ep.vector}, mask="mask")


def orbit(net: nn.Module, batch: Batch, plan: ep.RotationPlan) -> ep.Orbit:
    """The orbit of a batch, many rotations in one pass.

    Args:
        net: of the signature of `Transformer`.
        batch: the structures.
        plan: the rotations, the same for all structures.
    """
    count = len(batch.species)

    def stacked(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        rotated = inputs["positions"]
        energy, forces = predict(net, rotated.flatten(0, 1), batch.species.repeat(len(rotated), 1))
        return {"energy": energy.unflatten(0, (-1, count)), "forces": forces.unflatten(0, (-1, count))}

    inputs = {"positions": batch.positions, "mask": batch.species != PADDING}
    with torch.no_grad():
        return ep.twirl(stacked, inputs, schema(), plan, stacked=True, chunk=max(1, CHUNK // count), floor=0)


def decomposed(net: nn.Module, batch: Batch, plan: ep.RotationPlan) -> list[dict[str, Any]]:
    """`L_total`, `L_mean`, `L_equiv` and share with standard errors, and the loss in the data's frame, in rows.

    Forces per component, (eV/Å)², and norm-wise, eV/Å; energies per atom, eV², and eV.

    Args:
        net: of the signature of `Transformer`.
        batch: structures and labels.
        plan: the rotations, the same for all structures.
    """
    net.eval()
    found = orbit(net, batch, plan)
    real, rows = batch.species != PADDING, []
    targets = {"energy": batch.energy, "forces": batch.forces}
    for name, target in targets.items():
        for loss, elements in LOSSES.items():
            mask = {"mask": real[..., None]} if name == "forces" and loss == "mse" else {}
            mask = {"mask": real} if name == "forces" and loss != "mse" else mask
            parts = ep.decompose(found.only(name), {name: target}, loss, structures="leading", **mask)
            own = elements(
                found.identity[name].reshape(*target.shape[: real.ndim], -1),
                target.reshape(*target.shape[: real.ndim], -1),
            )
            frame = (own[real] if name == "forces" else own).mean()
            errors = {
                f"{key}{suffix}": getattr(parts, field + tail)
                for key, field in (("L_total", "total"), ("L_mean", "mean"), ("L_equiv", "equiv"), ("share", "share"))
                for suffix, tail in (("", ""), ("_stderr", "_stderr"))
            }
            rows.append({"output": name, "loss": loss, "L_data": float(frame), **errors})
    return rows
