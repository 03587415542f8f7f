"""Is the rough landscape of L_mean, and with it its large condition number, sampling noise?

    python integrations/learning_rotation/conditioning.py [--seeds 0 1 2 3 4] [--parts spectra landscapes]

Networks at step 500, blocks of their weights, four structures, as in Shen et al. (arXiv:2512.02303): spectra of the
Hessians of both losses, with fixed rotations (noise, times) and with fresh ones for every column, by the exact average
over rotations where it is known, with 10 and 100 rotations, in double and single precision; and both losses on a grid
along two eigenvectors. Writes `results/conditioning.csv` and `results/conditioning_landscapes.csv` row by row, goes on
where it was stopped, and ends with the tables and the figure. Takes an environment with fairchem for EScAIP
(`make hosts HOST=fairchem`), and `EQUIV_PROBE_DATA` for ethanol.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import conditioning_tables
import numpy as np
import torch
from conditioning_tables import read
from conditioning_tasks import RUNS, TASKS, Losses
from torch.nn.attention import SDPBackend, sdpa_kernel

import equiv_probe as ep
from equiv_probe.landscape.curvature_estimates import LossCurvature
from equiv_probe.landscape.curvature_products import CurvatureProducts
from equiv_probe.landscape.eigenvalue_density import EigenvalueDensity
from equiv_probe.landscape.eigenvalues import dense
from equiv_probe.landscape.lanczos import lanczos
from equiv_probe.landscape.parameter_space import ParameterSpace
from equiv_probe.scaling.table import write_csv

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conditioning_tasks import Task
    from torch import Tensor

RESULTS = Path(__file__).parent / "results"
WHICH = ("mean", "equiv")
LANCZOS = 50
METHOD = {"precision": "float64", "how": "fixed", "rotations": "10"}
MORE = (4, 16, 64)
"""Structures."""
SMALL = 300
"""Weights of a block up to which the matrix with fresh columns is made for every seed; else for the first one alone."""
STEPS = {"escaip": 0.00164, "flow": 0.002}
"""Of the grids, those of the published ones."""
GRIDS = {"escaip": "feed-forward", "flow": "last"}
N = 20
SCATTER = 100
"""Draws at one and the same weights."""
REDRAWS = {False: ("rotations",), True: ("rotations", "all")}
"""What is drawn anew, by whether there are noise and times."""


def spectra(task: Task, block: str, seed: int) -> Iterator[dict[str, Any]]:
    """Every way of one block, a row for each loss."""
    weights = task.weights(block)
    double = task.precision is torch.float64
    for count in (10, 100, *([0] if task.averaged else [])) if double else (10,):
        found = ep.analysis.curvature(
            Losses(task, count, seed), parameters=weights, losses=WHICH, exact=True, progress=False
        )
        for name in WHICH:
            yield {"how": "fixed", "rotations": count or "all", "loss": name, **numbers(getattr(found, name))}
    if not double:
        return
    large = sum(p.numel() for p in weights.values()) > SMALL
    for fresh in REDRAWS[task.redraw is not None] if seed == 0 or not large else ():
        for name, rows in zip(WHICH, fresh_matrices(Losses(task, 10, seed, redraws=fresh), weights), strict=True):
            pairs = dense(rows, torch.finfo(task.precision).eps)
            known = EigenvalueDensity(len(rows), pairs.values, pairs.residuals, pairs.square, floor=pairs.floor)
            yield {"how": f"fresh {fresh}", "rotations": 10, "loss": name, **numbers(LossCurvature.of([known]))}
    for fresh in (False, True):
        for name in WHICH:
            nodes = ritz(Losses(task, 10, seed), weights, name, fresh=fresh)
            yield {"how": f"Lanczos {'fresh' if fresh else 'fixed'}", "rotations": 10, "loss": name, **ends(nodes)}


def of_more_structures(path: Path, seeds: list[int]) -> None:
    """The last layer of the flow, fixed rotations, on more than four structures: a row for each loss."""
    rows: list[dict[str, Any]] = list(read(path)) if path.exists() else []
    for seed, count in itertools.product(seeds, MORE):
        known = {"task": "flow", "block": "last", "structures": str(count), "seed": str(seed), **METHOD}
        if any(known.items() <= row.items() for row in rows):
            continue
        task = TASKS["flow"](seed, structures=count)
        loss, weights = Losses(task, 10, seed), task.weights("last")
        found = ep.analysis.curvature(loss, parameters=weights, losses=WHICH, exact=True, progress=False)
        residuals = {"residuals": task.labels().numel()}
        rows += [{**known, **residuals, "loss": name, **numbers(getattr(found, name))} for name in WHICH]
        print(known, *(found.condition("positive").value for found in (found.mean, found.equiv)), flush=True)
        write_csv(path, rows)


def numbers(found: LossCurvature) -> dict[str, Any]:
    """Ends of a spectrum and condition numbers."""
    values, whole = np.array(found.eigenvalues[0]), found.whole
    assert whole is not None
    return {
        **ends(values),
        "weights": found.size,
        "negative": int((values < -whole.floor).sum()),
        "null": int(whole.null),
        "floor": whole.floor,
        "smallest_above_floor": found.smallest_positive.value,
        "kappa_above_floor": found.condition("positive").value,
        **{f"kappa_{kind}": found.condition(kind).value for kind in ("mass-0.99", "mass-0.9", "weighted")},
        "above_1e-3": int((values > 1e-3 * values[-1]).sum()),
    }


def ends(values: np.ndarray) -> dict[str, Any]:
    """Largest and smallest positive eigenvalue just as they come, and the most negative."""
    positive = values[values > 0]
    largest, least = float(positive.max()), float(positive.min())
    return {"largest": largest, "most_negative": float(values.min()), "smallest": least, "kappa": largest / least}


def fresh_matrices(loss: Losses, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Hessians of which every column is of other rotations."""
    tensors, columns, generator = list(weights.values()), ([], []), torch.Generator().manual_seed(loss.seed)
    eye = torch.eye(sum(p.numel() for p in tensors), dtype=tensors[0].dtype)
    with sdpa_kernel(SDPBackend.MATH):
        for column in eye:
            _, *values = loss.redrawn(generator)()
            for value, made in zip(values, columns, strict=True):
                slopes = torch.autograd.grad(value, tensors, create_graph=True)
                along = torch.cat([one.reshape(-1) for one in slopes]) @ column
                bent = torch.autograd.grad(along, tensors, retain_graph=True)
                made.append(torch.cat([one.reshape(-1) for one in bent]))
    return torch.stack(columns[0]), torch.stack(columns[1])


def ritz(loss: Losses, weights: dict[str, Tensor], name: str, *, fresh: bool) -> np.ndarray:
    """Ritz values of fifty steps of Lanczos, each with other rotations or all with the same."""
    space, generator = ParameterSpace(weights), torch.Generator().manual_seed(loss.seed)
    held = CurvatureProducts(loss, space, hold=True)

    def times(vector: Tensor) -> Tensor:
        products = CurvatureProducts(loss.redrawn(generator), space) if fresh else held
        return products(vector, name)  # type: ignore[arg-type]

    return lanczos(times, space.random(generator), LANCZOS).nodes


def landscapes(task: Task, block: str, seed: int, folder: Path) -> None:
    """Both losses on a grid with fixed and with fresh draws, each kept as a file."""
    loss, known = Losses(task, 10, seed), {}
    for how in ("fixed", *REDRAWS[task.redraw is not None]):
        path = folder / f"conditioning-{task.name}-{block}-{how}-{seed}.json"
        if path.exists():
            continue
        fresh = how != "fixed"
        found = ep.analysis.landscape(
            replace(loss, redraws=how) if fresh else loss,
            parameters=task.weights(block),
            n=N,
            step=STEPS[task.name],
            rotations="fresh" if fresh else "fixed",
            seed=seed,
            name=f"{task.name}, {block}, {how}",
            progress=False,
        )
        if fresh:
            generator = torch.Generator().manual_seed(10**6 + seed)
            with torch.no_grad():
                draws = [torch.stack(replace(loss, redraws=how).redrawn(generator)()) for _ in range(SCATTER)]
            spread = torch.stack(draws).double()
            known = dict(zip(("total", "mean", "equiv"), (spread.std(0) / spread.mean(0)).tolist(), strict=True))
        found.protocol.update(scatter=known if fresh else {})
        found.save(path)
        print(path.name, {name: (one.relative, one.lag1) for name, one in found.roughness.items()}, flush=True)


def all_spectra(name: str, seeds: list[int]) -> None:
    """Every block of a task in both precisions, seed by seed, as far as they are missing."""
    path = RESULTS / f"conditioning_{name}.csv"
    rows: list[dict[str, Any]] = list(read(path)) if path.exists() else []
    for seed, precision in itertools.product(seeds, (torch.float64, torch.float32)):
        known = {"task": name, "seed": str(seed), "precision": str(precision).removeprefix("torch.")}
        if any(known.items() <= row.items() for row in rows):
            continue
        task = TASKS[name](seed, precision)
        for block in reversed(task.blocks):
            for row in spectra(task, block, seed):
                rows.append({**known, "block": block, **row})
                print(*(f"{v:.3g}" if isinstance(v, float) else v for v in rows[-1].values()), flush=True)
        write_csv(path, rows)


def main() -> None:
    """What is missing, then tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--parts", nargs="+", default=["spectra", "structures", "landscapes", "tables"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.tasks if "landscapes" in args.parts else []:
        for seed in args.seeds:
            landscapes(TASKS[name](seed), GRIDS[name], seed, RUNS)
    for name in args.tasks if "spectra" in args.parts else []:
        all_spectra(name, args.seeds)
    if "structures" in args.parts:
        of_more_structures(RESULTS / "conditioning_structures.csv", args.seeds)
    if "tables" in args.parts:
        conditioning_tables.everything(RESULTS, RUNS)


if __name__ == "__main__":
    main()
