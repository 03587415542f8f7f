"""What a product of the curvature with a vector costs, against a gradient of the same loss.

    python tests/benchmarks/bench_curvature.py
    python tests/benchmarks/bench_curvature.py --structures 16 --replicates 2 --rounds 5 --device cuda

On the force-field transformer of integrations/force_field (189 k parameters, float32), of forces.
Times are the processor's, since the machine may be busy (wall time on a GPU); medians over rounds, which take rotates.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase.io
import torch
from rich.console import Console
from rich.table import Table

import equiv_probe as ep
from equiv_probe.landscape.curvature_products import CurvatureProducts
from equiv_probe.landscape.decomposed_loss import space_of

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parents[2] / "integrations/force_field"


class Forces(torch.nn.Module):
    """The transformer's forces, from a dict."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"forces": self.network(inputs["positions"], inputs["species"])[1]}


def orbit_loss(structures: int, plan: ep.RotationPlan, chunk: int, device: str) -> ep.analysis.OrbitLoss:
    """Squared error of the forces of some of the embedded molecules."""
    spec = importlib.util.spec_from_file_location("bench_transformer", FOLDER / "transformer.py")
    assert spec is not None
    assert spec.loader is not None
    transformer: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(transformer)
    network = transformer.calculator(device=device).network.requires_grad_(requires_grad=True)
    atoms = ase.io.read(FOLDER / "data/molecules.extxyz", f":{structures}")
    positions, species = transformer.padded(atoms)
    forces = torch.zeros(positions.shape, device=device)
    for row, molecule in enumerate(atoms):
        forces[row, : len(molecule)] = torch.as_tensor(molecule.get_forces(), dtype=torch.float32)
    x = torch.as_tensor(positions, dtype=torch.float32, device=device)
    z = torch.as_tensor(species, device=device)
    return ep.analysis.OrbitLoss(
        Forces(network),
        {"positions": x, "species": z},
        {"forces": forces},
        ep.Schema(inputs={"positions": ep.point, "species": ep.scalar}, outputs={"forces": ep.vector}),
        plan,
        mask={"forces": (z != 0)[..., None].expand(-1, -1, 3)},
        chunk=chunk,
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=int, default=4)
    parser.add_argument("--design", default="icosahedral")
    parser.add_argument("--replicates", type=int, default=2, help="two or more")
    parser.add_argument("--chunk", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-hold", action="store_true", help="leave out held graphs, which take memory")
    given = parser.parse_args()
    plan = ep.RotationPlan(given.design, replicates=given.replicates)
    loss = orbit_loss(given.structures, plan, given.chunk, given.device)
    space = space_of(loss, None)
    plain, held = CurvatureProducts(loss, space), CurvatureProducts(loss, space, hold=True)
    vector = space.random(torch.Generator().manual_seed(0))
    calls: dict[str, Callable[[], Any]] = {
        "losses, without graph": torch.no_grad()(loss),
        "gradient": lambda: plain.gradient("equiv"),
        "Hessian times vector": lambda: plain(vector, "equiv"),
    }
    if not given.no_hold:
        held(vector, "equiv")
        calls["Hessian times vector, graph held"] = lambda: held(vector, "equiv")
    took: dict[str, list[float]] = {name: [] for name in calls}
    on_gpu = given.device != "cpu"
    for _ in range(given.rounds):
        for name, call in calls.items():
            began = time.perf_counter() if on_gpu else time.process_time()
            call()
            if on_gpu:
                torch.cuda.synchronize()
            took[name].append((time.perf_counter() if on_gpu else time.process_time()) - began)
    seconds = {name: statistics.median(values) for name, values in took.items()}
    rotations = len(plan.weights) * given.replicates
    table = Table(
        title=f"{given.structures} molecules × {rotations} rotations, {space.size} parameters, {given.device}"
    )
    for column in ("", "seconds", "a second", "÷ gradient"):
        table.add_column(column, justify="left" if not column else "right")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", f"{1 / value:.2f}", f"{value / seconds['gradient']:.2f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
