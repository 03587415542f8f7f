r"""What lets `L_equiv` fall: rows of the head that come together, or features that avoid their differences?

    python integrations/escaip/rows.py            # of every run of EScAIP whose weights are kept in runs/

Forces are linear in the row that all three components take, ``F[w] = A w``, so that

    L_equiv = ⅓ Σ_c δ_cᵀ G δ_c,    G = ⟨Aᵀ A⟩ per component of force,

a quadratic form of the features alone, taken at the differences δ_c of the rows from their mean. ``G`` is found by an
evaluation for each column of the matrix. With G and δ of the start and of the end four numbers say whose the fall is.
Writes `results/rows.csv`.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from escaip import NEIGHBOURS, batch, escaip, forces_of, frames, rows, rows_together
from measuring import OF_GRADIENTS
from train import RUNS

from equiv_probe.scaling.table import write_csv

if TYPE_CHECKING:
    from escaip import SizeName
    from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results" / "rows.csv"


def differences(model: nn.Module) -> Tensor:
    """δ, ``(3, W)`` in float64, the bias as the last column."""
    matrix = rows_together(model)
    return matrix - matrix.mean(0)


def form(model: nn.Module, held: list[Any]) -> Tensor:
    """G, ``(W, W)`` in (eV/Å)², of held-out structures."""
    layer, data = rows(model), batch(held)
    kept = {name: value.detach().clone() for name, value in layer.named_parameters()}
    columns = []
    with torch.no_grad():
        for value in layer.parameters():
            for column in range(value[0].numel()):
                for one in layer.parameters():
                    one.zero_()
                (value if value.ndim == 1 else value[:, column]).fill_(1.0)
                columns.append(forces_of(model, data).double().flatten())
        for name, value in layer.named_parameters():
            value.copy_(kept[name])
    a = torch.stack(columns, 1)
    return a.T @ a / len(a)


def of(g: Tensor, delta: Tensor) -> float:
    """The quadratic form at the differences, in (eV/Å)² per component."""
    return float(torch.einsum("ci,ij,cj->", delta, g, delta) / 3)


@cache
def kept(data: str) -> list[Any]:
    """Held-out structures of a set."""
    return frames(data)[1][:OF_GRADIENTS]


@cache
def start(data: str, size: SizeName, seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A new network, with its G and δ."""
    model = escaip(size, neighbours=NEIGHBOURS[data], seed=seed).eval()
    return model, form(model, kept(data)), differences(model)


def main() -> None:
    """All runs whose weights are there."""
    table = []
    for folder in sorted(RUNS.glob("*_escaip_*")):
        row = next(csv.DictReader((folder / "steps.csv").open()))
        state = torch.load(folder / "state.pt", weights_only=True)
        held = kept(row["data"])
        model, g_0, delta_0 = start(row["data"], row["size"], int(row["seed"]))
        model.load_state_dict(state["model"])
        g, delta = form(model, held), differences(model)
        power, directions = torch.linalg.eigh(g)  # ascending
        apart = [(one @ directions).square().sum(0) for one in (delta, delta_0)]
        seen = power.cumsum(0) > 0.01 * power.sum()  # where 99 % of what the features make of a row lies
        found = {
            "run": folder.name,
            "step": state["step"],
            "start": of(g_0, delta_0),
            "rows_of_end": of(g_0, delta),
            "features_of_end": of(g, delta_0),
            "end": of(g, delta),
            "directions": int(seen.sum()),
            "left_there": float(apart[0][seen].sum() / apart[1][seen].sum()),
            "left_elsewhere": float(apart[0][~seen].sum() / apart[1][~seen].sum()),
        }
        table.append(found)
        print(found, flush=True)
    write_csv(RESULTS, table, digits=4)


if __name__ == "__main__":
    main()
