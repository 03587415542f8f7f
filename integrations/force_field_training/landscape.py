"""Gradients, curvature and lines of both losses at the weights that a run kept: is `L_equiv` the easier one to lower?

    python integrations/force_field_training/landscape.py --config small --run augmented [--steps 100 1000 10000]

Everything is of the force error of a few held-out molecules, squared, per component. Writes
`results/<config>_<run>_landscape.json`, and goes on where it was stopped, checkpoint by checkpoint.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import figures
import labelled_sets
import measuring
import torch
from force_field import PADDING
from settings import HERE, LANDMARKS, Settings
from study import RESULTS
from torch import Tensor, nn
from training import Run

import equiv_probe as ep
from equiv_probe.landscape.growth_exponent import growth_exponent
from equiv_probe.results.report import without_nan

if TYPE_CHECKING:
    from collections.abc import Sequence

SETS = 2  # of independent rotations, whose scatter is part of the error bars


class Forces(nn.Module):
    """A force field as a module from a dict of tensors to the forces."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Forces (B, N, 3) of positions (B, N, 3) and species (B, N)."""
        return {"forces": self.net(inputs["positions"], inputs["species"])[1]}


def loss_of(
    net: nn.Module, batch: measuring.Batch, plan: ep.RotationPlan, *, per_structure: bool = False
) -> ep.analysis.OrbitLoss:
    """The decomposed force loss as a function of the weights.

    Args:
        net: of the signature of `Transformer`; put in training mode, where forces that are derivatives have a graph.
        batch: structures and labels.
        plan: the rotations.
        per_structure: rotate every structure by rotations of its own.
    """
    schema = ep.Schema(inputs={"positions": ep.point}, outputs={"forces": ep.vector}, mask="mask")
    real = batch.species != PADDING
    inputs = {"positions": batch.positions, "species": batch.species, "mask": real}
    return ep.analysis.OrbitLoss(
        Forces(net.train()),
        inputs,
        {"forces": batch.forces},
        schema,
        plan,
        mask=real[..., None],
        per_structure=per_structure,
    )


def losses(net: nn.Module, batch: measuring.Batch, plan: ep.RotationPlan) -> list[ep.analysis.OrbitLoss]:
    """The same loss with independent rotations; the plan's seed is that of the first set."""
    plans = [ep.RotationPlan(plan.design, replicates=plan.R, seed=plan.seed + k) for k in range(SETS)]
    return [loss_of(net, batch, one) for one in plans]


def molecules(run: Run, count: int, atoms: int) -> measuring.Batch:
    """So many structures of the held-out part with at most so many atoms, spread evenly over it."""
    small = ((run.sets.held.species != PADDING).sum(1) <= atoms).nonzero()[:, 0]
    rows = small[torch.linspace(0, len(small) - 1, count).round().long()]
    return run.labels(labelled_sets.take(run.sets.held, rows))


def curvature(given: Sequence[ep.analysis.OrbitLoss], *, probes: int, steps: int) -> dict[str, Any]:
    """Eigenvalues and condition numbers of both losses, and their ratio under every definition."""
    found = ep.analysis.curvature(
        given,
        losses=("mean", "equiv"),
        top=1,
        exact=False,
        probes=probes,
        steps=steps,
        trace_probes=2 * probes,
        tolerance=0.1,
    )
    print(found)
    plain = found.to_dict()
    for name in ("mean", "equiv"):
        del plain[name]["density"]
    return plain


def gradients(net: nn.Module, batch: measuring.Batch, replicates: int) -> dict[str, Any]:
    """Lengths of both gradients, unbiased over structures and their rotations, and the angle between them."""
    plan = ep.RotationPlan("tetrahedral", replicates=replicates, seed=measuring.SEED + SETS)
    found = ep.analysis.gradients(loss_of(net, batch, plan, per_structure=True), blocks="structures")
    print(found)
    plain: dict[str, Any] = found.to_dict()["groups"]["all"]
    return plain


def line(given: Sequence[ep.analysis.OrbitLoss], seed: int) -> dict[str, Any]:
    """Both losses along a random direction, and the powers with which they grow.

    Away from a minimum a loss has a slope along the line too; its even part ``(L(t) + L(−t)) / 2 − L(0)`` has none, and
    grows with the square of t where the loss is smooth.
    """
    found = ep.analysis.along_line(
        given, "random", [sign * 10 ** (k / 4) for k in range(-12, 1) for sign in (-1, 1)], seed=seed
    )
    print(found)
    plain, ahead = found.to_dict(), found.t > 0
    for k, (name, values, _) in enumerate(found.named()):
        even = (values + values[::-1])[ahead] / 2 - values[found.origin]
        plain[f"{name}_even"] = asdict(growth_exponent(found.t[ahead], even, float(found.floor[k])))
        print(name, "even part: power", plain[f"{name}_even"]["power"])
    return plain


def main() -> None:
    """Measure every checkpoint that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--run", default="augmented")
    parser.add_argument("--steps", type=int, nargs="*", default=LANDMARKS)
    parser.add_argument("--molecules", type=int, default=6)
    parser.add_argument("--atoms", type=int, default=12, help="of these molecules, at most")
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--lanczos", type=int, default=8)
    parser.add_argument("--parts", nargs="*", default=["gradients", "line", "curvature"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = HERE / "runs" / Path(args.config).stem / args.run
    run = Run(Settings.read(args.config)[args.run], folder, args.device)
    path = RESULTS / f"{Path(args.config).stem}_{args.run}_landscape.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    batch, plan = (
        molecules(run, args.molecules, args.atoms),
        ep.RotationPlan("tetrahedral", replicates=2, seed=measuring.SEED),
    )
    for step in args.steps:
        weights = folder / f"step{step}.pt"
        if not weights.exists():
            continue
        print(f"step {step}")
        own = found.setdefault(str(step), {})
        run.net.load_state_dict(torch.load(weights, map_location=run.device, weights_only=True))
        given = losses(run.net, batch, plan)
        parts = {
            "gradients": lambda: gradients(run.net, run.labels(run.sets.held), 2),
            "line": lambda given=given, step=step: line(given, step),
            "curvature": lambda given=given: curvature(given, probes=args.probes, steps=args.lanczos),
        }
        for name, part in parts.items():
            if name in args.parts and name not in own:
                own[name] = part()
                path.write_text(json.dumps(without_nan(found), indent=1) + "\n")
    rows = [row for row in run.rows if (row["part"], row["output"], row["loss"]) == ("held", "forces", "mse")]
    figures.landscape(found, rows, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
