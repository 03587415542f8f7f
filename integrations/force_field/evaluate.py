"""Held-out errors of a trained force field, and what share of them a rotation of the molecules accounts for.

python integrations/force_field/evaluate.py
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from labelled import Labelled, compositions, generator, haar_rotations, load
from torch import Tensor
from transformer import PADDING, WEIGHTS, Transformer, calculator

HELD_OUT = Path(__file__).parent / "data" / "molecules.extxyz"


class Errors(NamedTuple):
    """Errors on a labelled set: components of forces in eV/Å, energies of molecules in eV."""

    force_rmse: float
    force_mae: float
    energy_mae: float
    force_rms: float  # of the labels: the error of a model that predicts zero


def describe(found: Errors) -> str:
    """Say errors in one line."""
    return (
        f"force RMSE {found.force_rmse:.3f} eV/Å, MAE {found.force_mae:.3f} eV/Å "
        f"(predicting zero: {found.force_rms:.3f} eV/Å), energy MAE {found.energy_mae:.3f} eV"
    )


def errors(network: Transformer, references: Tensor, data: Labelled) -> Errors:
    """Compare a network with labels, in one pass and without gradients."""
    parameter = next(network.parameters())
    with torch.no_grad():
        energies, forces = network(data.positions.to(parameter), data.species.to(parameter.device))
    difference = (forces.cpu() - data.forces)[data.species != PADDING]
    total = energies.double().cpu() + compositions(data.species) @ references
    return Errors(
        force_rmse=difference.square().mean().sqrt().item(),
        force_mae=difference.abs().mean().item(),
        energy_mae=(total - data.energies).abs().mean().item(),
        force_rms=data.forces[data.species != PADDING].square().mean().sqrt().item(),
    )


def force_decomposition(network: Transformer, data: Labelled, rotations: int, seed: int) -> tuple[float, float]:
    """Return `L_total` and `L_equiv` of the force error, in (eV/Å)² per component, from independent Haar rotations.

    `L_equiv` is the sample variance of the forces rotated back, which is unbiased for squared error. It is kept apart
    from the instrument's own estimate on purpose: the two can be compared.
    """
    parameter = next(network.parameters())
    real = data.species != PADDING
    orbit = []
    for rotate in haar_rotations(rotations, generator(seed, 2, 0)):
        with torch.no_grad():
            _, forces = network((data.positions @ rotate.T).to(parameter), data.species.to(parameter.device))
        orbit.append((forces.cpu() @ rotate)[real])
    rotated_back = torch.stack(orbit)
    total = (rotated_back - data.forces[real]).square().mean()
    return total.item(), rotated_back.var(dim=0, correction=1).mean().item()


def main(
    weights: Annotated[Path, typer.Option(help="a file that train.py wrote")] = WEIGHTS,
    structures: Annotated[Path, typer.Option(help="extxyz file with energies and forces")] = HELD_OUT,
) -> None:
    """Print the errors of a trained force field."""
    trained, data = calculator(weights), load(structures)
    found = errors(trained.network, torch.as_tensor(trained.references[1:]), data)
    print(f"{len(data.energies)} molecules of {structures.name}: {describe(found)}")
    total, equiv = force_decomposition(trained.network, data, rotations=96, seed=0)
    print(
        f"forces under 96 random rotations: L_total {total:.4f} (eV/Å)², L_equiv {equiv:.4f} (eV/Å)² "
        f"(root {math.sqrt(equiv):.3f} eV/Å), share {equiv / total:.1%}"
    )


if __name__ == "__main__":
    typer.run(main)
