"""Gradients and curvature of both losses, and lines, at the weights that a run kept: is `L_equiv` easier to lower?

    python integrations/flow/landscape.py [--config long] [--steps 0 100 1000 3000 10000]

The loss is the study's own, of held-out structures at fixed noise and times: a few at one draw for the curvature,
128 at eight draws for the gradients. Nobody tells the instrument what loss that is (`ep.analysis.OrbitLoss.of_step`).
Writes `results/<config>_landscape.csv` mark by mark, and goes on where it was stopped; and the run's log with its
figure, `results/<config>_steps.*`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import figures
import flow
import torch
from rich.console import Console
from rich.table import Table
from train import EVALUATION_SEED, HERE, Config, Run

import equiv_probe as ep
from equiv_probe.landscape.growth_exponent import growth_exponent
from equiv_probe.scaling.table import write_csv

sys.path.append(str(Path(__file__).parents[1] / "learning_rotation"))
from flow_and_voxel import LOSSES, curvature_row, gradient_row, pair, read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONDITIONS = ("weighted", "mean")
KAPPAS = [f"condition_{kind}" for kind in CONDITIONS]


def losses(run: Run, structures: int, plan: str, sets: int) -> list[ep.analysis.OrbitLoss]:
    """The decomposed loss as a function of the weights, with independent sets of rotations.

    Args:
        run: whose network and held-out structures.
        structures: how many.
        plan: name of the design; two replicates.
        sets: of rotations; their scatter is in the error bars.
    """
    batch, config = run.held.take(torch.arange(structures), run.device), run.config

    def step() -> torch.Tensor:
        return run.loss(batch)

    found = []
    for k in range(sets):
        torch.manual_seed(EVALUATION_SEED)
        rotations = ep.RotationPlan(plan, replicates=2, seed=k)
        found.append(
            ep.analysis.OrbitLoss.of_step(run.net, step, rotations, schema=flow.schema(config.predict), center="origin")
        )
    return found


def gradients(run: Run, batches: int, size: int, seed: int) -> dict[str, float]:
    """Lengths of both gradients and the cosine between them: unbiased over structures, noise, times and rotations.

    Args:
        run: whose network and held-out structures.
        batches: independent blocks, each with its own structures and draw.
        size: structures of each.
        seed: of the rotations.
    """

    def step(k: int) -> Callable[[], torch.Tensor]:
        batch = run.held.take(torch.arange(k * size, (k + 1) * size), run.device)

        def loss() -> torch.Tensor:
            torch.manual_seed(EVALUATION_SEED + k)  # so that every block has noise and times of its own
            return run.loss(batch)

        return loss

    loss = ep.analysis.OrbitLoss.of_step(
        run.net,
        [step(k) for k in range(batches)],
        ep.RotationPlan("tetrahedral", replicates=2, seed=seed),
        schema=flow.schema(run.config.predict),
        center="origin",
        per_structure=True,
    )
    found = ep.analysis.gradients(loss, blocks="structures", n_blocks=batches)
    print(found, flush=True)
    return gradient_row(found)


def line(given: Sequence[ep.analysis.OrbitLoss], seed: int) -> dict[str, float]:
    """With which power of the distance both losses grow along a random direction.

    Away from a minimum a loss has a slope along the line too; its even part ``(L(t) + L(−t)) / 2 − L(0)`` has none.
    """
    found = ep.analysis.along_line(
        given, "random", [sign * 10 ** (k / 4) for k in range(-10, 1) for sign in (-1, 1)], seed=seed
    )
    ahead, row = found.t > 0, {}
    for k, (name, values, _) in enumerate(found.named()):
        even = (values + values[::-1])[ahead] / 2 - values[found.origin]
        power = growth_exponent(found.t[ahead], even, float(found.floor[k])).power
        row |= {f"{name}": float(values[found.origin])} if name != "L_total" else {}
        row |= {f"{name}_power": power.value, f"{name}_power_stderr": power.stderr}
    return row


def curvature(given: Sequence[ep.analysis.OrbitLoss], probes: int, lanczos: int) -> dict[str, float]:
    """Largest and smallest eigenvalues, traces, ranks and condition numbers of both losses."""
    found = ep.analysis.curvature(
        given, losses=LOSSES, top=1, probes=probes, steps=lanczos, trace_probes=4, tolerance=1e-2
    )
    print(found, flush=True)
    row = curvature_row(found, ("largest", "smallest", "trace", "rank"), CONDITIONS)
    for kind in CONDITIONS:
        ratio = found.ratio(kind)
        row |= {f"ratio_{kind}": ratio.value, f"ratio_{kind}_low": ratio.low, f"ratio_{kind}_high": ratio.high}
    return row


def main() -> None:
    """Measure every mark that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="long")
    parser.add_argument("--steps", type=int, nargs="*")
    parser.add_argument("--structures", type=int, default=8)
    parser.add_argument("--plan", default="octahedral")
    parser.add_argument("--sets", type=int, default=2)
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--lanczos", type=int, default=12)
    parser.add_argument("--batches", type=int, default=8, help="for the gradients")
    parser.add_argument("--size", type=int, default=16, help="structures of each")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    config = Config.read(args.config)
    run = Run(config, augment=False, out=HERE / "runs" / args.config / "transformer-turned", device=args.device)
    path = HERE / "results" / f"{args.config}_landscape.csv"
    known = {row["step"]: row for row in read(path)}
    for step in args.steps or config.marks:
        if not run.weights_at(step).exists():
            continue
        run.net.load_state_dict(torch.load(run.weights_at(step), map_location=args.device, weights_only=True))
        row = known.setdefault(float(step), {"step": float(step)})
        given = losses(run, args.structures, args.plan, args.sets)
        if "mean_largest" not in row:
            row |= curvature(given, args.probes, args.lanczos)
        if "L_equiv_power" not in row:
            row |= line(given, step)
        if "gradient_ratio" not in row:
            row |= gradients(run, args.batches, args.size, step)
        write_csv(path, [known[step] for step in sorted(known)])
    log = [row for row in run.rows if row["stage"] == "val"]
    write_csv(path.with_name(f"{args.config}_steps.csv"), log)
    figures.against_step({"augmented": log}, path.with_name(f"{args.config}_steps.png"))
    heads = "step", "L_mean", "L_equiv", "‖∇L_mean‖", "‖∇L_equiv‖", "cosine", "λmax: L_mean, L_equiv"
    table = Table(*heads, *(f"κ {k}: L_mean, L_equiv" for k in CONDITIONS), "power of L_equiv")
    for row in (known[step] for step in sorted(known)):
        gradient = [pair(row, f"gradient_{key}") for key in ("norm_mean", "norm_equiv", "cosine")]
        pairs = [", ".join(f"{row[f'{n}_{key}']:.3g}" for n in LOSSES) for key in ("largest", *KAPPAS)]
        both = f"{row['L_mean']:.4f}", f"{row['L_equiv']:.2e}"
        table.add_row(f"{row['step']:.0f}", *both, *gradient, *pairs, pair(row, "L_equiv_power"))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
