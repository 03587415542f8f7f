"""How far was the ligand moved? A 3D CNN on voxelised protein pockets, and the broken symmetry in its loss.

    python integrations/voxel/pockets.py                                  # all runs, then the audit, figure and table
    python integrations/voxel/pockets.py --runs so3
    python integrations/voxel/pockets.py --config gpu                     # 48³ voxels of 0.5 Å, AMP
    python integrations/voxel/pockets.py --set steps=300 folder=try

The same command goes on with what was interrupted. The network sees typed atoms of a protein pocket and of its ligand,
which was moved at random, as 28 densities; it is to say how far, in Å (root mean square over the ligand's atoms;
squared error). The complexes keep the orientation of their crystals. Its output is a number, so rotations are made at
the source, where nothing is interpolated: the atoms rotate about the middle of the box, before they become densities.
Runs: `none`, no augmentation; `cube`, rotated by random rotations of the cube; `so3`, by any rotation (`ep.augment`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from figures import RESULTS, curves
from molecules import data_folder
from networks import ScalarCNN
from poses import CHANNELS, POCKETS, Poses, draw, load
from torch import Tensor, nn
from training import Run, Training, autocast, by_key, configured, device_of, generator_for
from voxeliser import LIBMOLGRID, Voxeliser, atom_gradients

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

    from equiv_probe.estimation.estimates import Sums

RUNS = ("none", "cube", "so3")
SCHEMA = ep.Schema(inputs={"pos": ep.point}, outputs={"0": ep.scalar}, mask="mask")
PLANS = {"cube": ep.RotationPlan("cube"), "so3": ep.RotationPlan("tetrahedral", replicates=2)}
"""On held-out poses while it trains: 24 rotations of each kind."""


@dataclass(frozen=True)
class Docking(Training):
    """What a run needs to know besides.

    Attributes:
        size: voxels along each edge.
        resolution: Å.
        cutoff: of the Gaussians, in standard deviations.
        widths: channels of the CNN's levels; the grid is halved after each.
        shift: largest shift of a ligand, Å.
        held: poses kept for evaluation, of the pockets that are trained on, and as many of the last, which is not.
    """

    steps: int = 800
    batch: int = 16
    every: int = 10
    log: int = 25
    evaluate: int = 200
    size: int = 24
    resolution: float = 1.0
    cutoff: float = 3.5
    widths: tuple[int, ...] = (16, 32, 64)
    shift: float = 4.0
    held: int = 32


PRESETS = {
    "small": Docking(),
    "gpu": Docking(
        steps=100_000,
        batch=64,
        rate=3e-4,
        every=50,
        log=500,
        evaluate=5000,
        amp=True,
        folder="runs-gpu",
        size=48,
        resolution=0.5,
        cutoff=4.0,
        widths=(32, 64, 128, 256),
        held=256,
    ),
}


class Scorer(nn.Module):
    """Atoms to one number, by way of a grid."""

    def __init__(self, config: Docking) -> None:
        super().__init__()
        self.config = config
        self.voxels = Voxeliser(
            CHANNELS, config.size, config.resolution, width=LIBMOLGRID, cutoff=config.cutoff, largest_radius=2.0
        )
        self.cnn = ScalarCNN(CHANNELS, config.widths, flatten=3)

    def forward(self, pos: Tensor, channel: Tensor, radius: Tensor, mask: Tensor) -> Tensor:
        """How far the ligand was moved, `(B,)`, Å."""
        grid = self.voxels(pos, channel, radius, mask)
        with autocast(self.config, pos.device):
            return 3.0 + self.cnn(grid).to(grid)  # Å, about the mean of the labels


class Task:
    """The data of one run and what is done with them: trained on all pockets but the last."""

    def __init__(self, config: Docking, kind: str) -> None:
        self.config, self.kind, self.device = config, kind, device_of()
        self.pockets = load(data_folder() / "protein_ligand").to(self.device)
        torch.manual_seed(config.seed)
        self.network = Scorer(config).to(self.device)
        self.network.cnn.to(memory_format=torch.channels_last_3d)
        self.cube = PLANS["cube"].rotations()[0].to(self.device, torch.float32)
        known, count = len(POCKETS) - 1, config.held
        seen = torch.arange(count, device=self.device) % known
        self.held = {
            "seen": self._poses(seen, generator_for(self.device, config.seed, 0, 2)),
            "unseen": self._poses(torch.full_like(seen, known), generator_for(self.device, config.seed, 1, 2)),
        }

    def _poses(self, which: Tensor, generator: torch.Generator) -> Poses:
        return draw(self.pockets, which, generator, self.config.shift)

    def loss_of(self, step: int) -> Callable[[], Tensor]:
        """The closure of a step: the same poses whenever it is called."""
        generator = generator_for(self.device, self.config.seed, step)
        known = len(POCKETS) - 1
        which = torch.randint(known, (self.config.batch,), generator=generator, device=self.device)
        poses = self._poses(which, generator)
        if self.kind == "cube":
            rotate = self.cube[torch.randint(len(self.cube), (len(which),), generator=generator, device=self.device)]
            poses = Poses(poses.pos @ rotate.mT, poses.channel, poses.radius, poses.mask, poses.ligand, poses.rmsd)
        return lambda: (self.network(**poses.inputs) - poses.rmsd).square().mean()

    def held_out(self, poses: Poses, plan: ep.RotationPlan, batch: int = 16) -> Sums:
        """Squared error over a plan's rotations of the atoms about the middle of the box."""
        self.network.eval()
        sums: Sums | None = None
        for start in range(0, len(poses.rmsd), batch):
            part = poses[start : start + batch]
            orbit = ep.twirl(self._predict, part.inputs, SCHEMA, plan, center="origin", floor=0)
            found = ep.decompose(orbit, part.rmsd, "mse", structures="leading").sums
            sums = found if sums is None else sums + found
        assert sums is not None
        return sums

    def _predict(self, inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return self.network(**inputs)

    def slopes(self, poses: Poses) -> tuple[float, float]:
        """√L_equiv and the size of the score's slope along the ligand's atoms, per Å: vectors, and no grid."""

        def predict(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            pos = inputs["pos"].detach().requires_grad_()
            with torch.enable_grad():
                score = self.network(**{**inputs, "pos": pos})
            return {"pull": atom_gradients(score, pos) * poses.ligand[..., None]}

        schema = ep.Schema(inputs={"pos": ep.point}, outputs={"pull": ep.vector}, mask="mask")
        orbit = ep.twirl(predict, poses.inputs, schema, PLANS["so3"], center="origin", floor=0)
        counts = poses.ligand[..., None].expand_as(poses.pos)
        zero = torch.zeros_like(poses.pos)  # against nothing, L_total is the mean square of the slopes
        found = ep.decompose(orbit, {"pull": zero}, "mse", structures="leading", mask=counts)
        return (3 * found.equiv) ** 0.5, (3 * found.total) ** 0.5


def train(config: Docking, kind: str, until: int | None = None) -> tuple[Task, Run]:
    """One run, from the beginning or from its checkpoint."""
    task = Task(config, kind)
    probe = ep.Probe(task.network, SCHEMA, every=config.every, seed=config.seed, center="origin")
    run = Run(f"pockets-{kind}", config, task.network, probe)
    if kind == "so3":
        run.augment(task.network, SCHEMA, center="origin")
    run.fit(task.loss_of, lambda: by_key(task.held_out(task.held["seen"], PLANS["so3"])), until)
    return task, run


def main() -> None:
    """All runs, and what they show."""
    config, args = configured(PRESETS, __doc__)
    done: dict[str, Run] = {}
    audited: list[str] = []
    for kind in args.runs or RUNS:
        task, run = train(config, kind, args.until)
        done[kind] = run
        print(f"\n{kind}: {run.seconds:.0f} s of training; held out, SO(3):\n{run.table()}", flush=True)
        for which, poses in task.held.items():
            found = {group: by_key(task.held_out(poses, plan)) for group, plan in PLANS.items()}
            cells = [f"{found['so3']['L_total']:.3g}"]
            cells += [f"{100 * found[g]['share']:.3g} ± {100 * found[g]['share_stderr']:.1g} %" for g in found]
            error, size = task.slopes(poses[:8])
            cells.append(f"{error:.2g} of {size:.2g}")
            audited.append(f"| `{kind}` | {which} | " + " | ".join(cells) + " |")
    print("\n| run | pockets | `L_total`, Å² | share, cube | share, SO(3) | ligand slopes: √`L_equiv`, rms |")
    print("|---|---|---|---|---|---|\n" + "\n".join(audited))
    trial = bool(args.set) or args.until is not None
    folder = run.folder.parent if trial else RESULTS
    curves({kind: run.rows for kind, run in done.items()}, f"pockets-{args.config}", "Pose scorer", folder)


if __name__ == "__main__":
    main()
