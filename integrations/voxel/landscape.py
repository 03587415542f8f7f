"""Gradients (and curvature) of both losses at the weights that a denoiser kept: is `L_equiv` the easier one to lower?

    python integrations/voxel/denoise.py --config long --runs cube     # trains, and keeps weights at its marks
    python integrations/voxel/landscape.py [--run cube]                # two minutes a mark, on one thread
    python integrations/voxel/landscape.py --curvature                 # more than half an hour a mark: for a GPU

The mean over all 24 rotations of the cube is exact, so that only molecules and noise are sampled: 16 of the held-out
for the gradients, one for the curvature, where it is taken as given. Writes `results/denoise-long-landscape.csv` mark
by mark, and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from denoise import CUBE, PRESETS, SCHEMA, Task
from figures import RESULTS
from rich.console import Console
from rich.table import Table
from training import Run, generator_for

import equiv_probe as ep
from equiv_probe.scaling.table import write_csv

sys.path.append(str(Path(__file__).parents[1] / "learning_rotation"))
from flow_and_voxel import LOSSES, curvature_row, gradient_row, pair, read

CONDITIONS = ("mass-0.99", "weighted", "mean")


def loss_of(task: Task, start: int, count: int, *, per_structure: bool) -> ep.analysis.OrbitLoss:
    """The denoiser's decomposed loss as a function of its weights, on held-out molecules with fixed noise.

    Args:
        task: its molecules and network.
        start: the first of the held-out molecules.
        count: how many.
        per_structure: so that molecules are independent.
    """
    clean = task.density(task.molecules[start : start + count])
    noisy = task.noisy(clean, generator_for(task.device, task.config.seed, start, 4))
    return ep.analysis.OrbitLoss(task.network, noisy, clean, SCHEMA, CUBE, per_structure=per_structure, chunk=1)


def gradients(task: Task, count: int) -> dict[str, float]:
    """Lengths of both gradients, unbiased over molecules and noise, and the cosine of the angle between them."""
    found = ep.analysis.gradients(
        loss_of(task, 0, count, per_structure=True), blocks="structures", n_blocks=min(8, count)
    )
    print(found, flush=True)
    return gradient_row(found)


def curvature(task: Task, count: int, probes: int, lanczos: int) -> dict[str, float]:
    """Largest eigenvalues, traces and condition numbers of both losses."""
    given = loss_of(task, 0, count, per_structure=False)
    found = ep.analysis.curvature(
        given, losses=LOSSES, top=1, probes=probes, steps=lanczos, trace_probes=2, tolerance=0.1, hold=True
    )
    print(found, flush=True)
    row = curvature_row(found, ("largest", "trace"), CONDITIONS)
    for kind in CONDITIONS:
        ratio = found.ratio(kind)
        row |= {f"ratio_{kind}": ratio.value, f"ratio_{kind}_stderr": ratio.stderr}
    return row


def main() -> None:
    """Measure every mark that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="cube")
    parser.add_argument("--molecules", type=int, default=16, help="for the gradients")
    parser.add_argument("--curvature", action="store_true")
    parser.add_argument("--few", type=int, default=1, help="for the curvature")
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--lanczos", type=int, default=6)
    args = parser.parse_args()
    config = PRESETS["long"]
    task = Task(config, args.run)
    run = Run(f"denoise-{args.run}", config, task.network, ep.Probe(task.network, SCHEMA, every=None))
    task.network.eval()
    path = RESULTS / "denoise-long-landscape.csv"
    known = {int(row["step"]): row for row in read(path)}
    marks = [step for step in config.marks if run.weights_at(step).exists()]
    measures = {"gradient_ratio": lambda: gradients(task, args.molecules)}
    if args.curvature:
        measures["mean_trace"] = lambda: curvature(task, args.few, args.probes, args.lanczos)
    for key, measure in measures.items():
        for step in reversed(marks):  # the last first: it matters most
            row = known.setdefault(step, {"step": step})
            if key not in row:
                weights = torch.load(run.weights_at(step), map_location=task.device, weights_only=True)
                task.network.load_state_dict(weights)
                row |= measure()
                write_csv(path, [known[one] for one in sorted(known)])
    heads = ("step", "‖∇L_mean‖", "‖∇L_equiv‖", "cosine", "λmax: L_mean, L_equiv")
    table = Table(*heads, *(f"κ ratio, {kind}" for kind in CONDITIONS))
    for step, row in sorted(known.items()):
        cells = [pair(row, f"gradient_{key}") for key in ("norm_mean", "norm_equiv", "cosine")]
        bends = "mean_trace" in row
        cells.append(", ".join(f"{row[f'{name}_largest']:.3g}" for name in LOSSES) if bends else "")
        table.add_row(str(step), *cells, *(pair(row, f"ratio_{kind}") if bends else "" for kind in CONDITIONS))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
