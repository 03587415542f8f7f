"""Denoise molecular densities on a voxel grid with a U-Net, and watch the share of broken symmetry in its loss.

    python integrations/voxel/denoise.py                                  # all runs, then the audit, figure and table
    python integrations/voxel/denoise.py --runs none cube                 # some of them
    python integrations/voxel/denoise.py --config gpu                     # VoxMol's size: 64³ voxels of 0.25 Å, AMP
    python integrations/voxel/denoise.py --set steps=300 folder=try       # anything else than in the preset

The same command goes on with what was interrupted. The setting is VoxMol's (Pinheiro et al., NeurIPS 2023): the density
x of a molecule, `y = x + σ ε` with white noise, and the squared error of the network's guess of x from y. Runs: `none`,
no augmentation; `cube`, a random rotation of the cube by `ep.augment`; `so3`, the atoms rotated at random before they
become a density; `control`, no augmentation, and kernels averaged over the cube's rotations; `random`, no augmentation,
of molecules each of which has a random orientation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from figures import RESULTS, curves
from molecules import CHANNELS, Molecules, data_folder, load
from networks import UNet, respect_the_cube
from source import PLANS, AtSource, at_source
from torch import Tensor
from training import Run, Training, autocast, by_key, configured, device_of, generator_for
from voxeliser import VOXMOL, Voxeliser

import equiv_probe as ep
from equiv_probe.rotations.haar import haar

if TYPE_CHECKING:
    from collections.abc import Callable

    from equiv_probe.estimation.estimates import Sums

RUNS = ("none", "cube", "so3", "control", "random")
SCHEMA = ep.Schema(inputs={"grid": ep.grid()}, outputs={"0": ep.grid()})
CUBE = ep.RotationPlan("cube")
DIP_MARKS = 0, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 4000, 5000, 7000, 10_000, 14_000, 20_000


@dataclass(frozen=True)
class Denoising(Training):
    """What a run needs to know besides.

    Attributes:
        size: voxels along each edge.
        resolution: Å.
        radius: of every atom, Å; the Gaussian's standard deviation is 0.66 of it, here about a voxel, as in VoxMol.
        noise: σ.
        reach: the largest distance of an atom from the centroid, Å.
        widths: channels of the U-Net's levels.
        held: molecules kept out of training.
        molecules: of the others, how many are trained on; 0 for all.
        watched: of those, how many are evaluated while it trains.
        rotated: of those, how many are rotated at the source, in the end.
    """

    steps: int = 1000
    batch: int = 8
    rate: float = 2e-3
    log: int = 25
    evaluate: int = 100
    size: int = 24
    resolution: float = 0.5
    radius: float = 0.8
    noise: float = 0.5
    reach: float = 5.0
    widths: tuple[int, ...] = (8, 16, 32)
    held: int = 64
    molecules: int = 0
    watched: int = 16
    rotated: int = 8


PRESETS = {
    "small": Denoising(),
    "long": Denoising(steps=3000, folder="runs-long", evaluate=250, marks=(0, 100, 1000, 3000)),
    "dip": Denoising(  # a step of some 7 ms on one free CPU thread; the rate stays up, as VoxMol's does
        steps=20_000,
        batch=4,
        rate=3e-4,
        schedule="constant",
        every=100,
        log=1000,
        evaluate=1000,
        folder="runs-dip",
        marks=DIP_MARKS,
        size=8,
        resolution=1.25,
        radius=1.4,
        reach=4.5,
        widths=(16, 32),
    ),
    "gpu": Denoising(
        steps=100_000,
        batch=64,
        rate=3e-4,
        every=50,
        log=500,
        evaluate=5000,
        amp=True,
        folder="runs-gpu",
        size=64,
        resolution=0.25,
        radius=0.5,
        noise=0.9,
        reach=7.5,
        widths=(32, 64, 128, 256),
        held=512,
        watched=64,
        rotated=64,
    ),
}


class Task:
    """The data of one run and what is done with them."""

    def __init__(self, config: Denoising, kind: str) -> None:
        self.config, self.kind, self.device = config, kind, device_of()
        path = data_folder() / "ccd_ligands" / "ccd_ideal_8000.npz"
        self.molecules = load(path, config.reach, "random" if kind == "random" else "principal", config.seed)
        self.molecules = self.molecules.to(self.device)
        self.voxels = Voxeliser(CHANNELS, config.size, config.resolution, width=VOXMOL).to(self.device)
        torch.manual_seed(config.seed)
        self.network = UNet(CHANNELS, config.widths)
        if kind == "control":
            respect_the_cube(self.network)
        self.network = self.network.to(self.device, memory_format=torch.channels_last_3d)

    def density(self, molecules: Molecules) -> Tensor:
        """Clean grids `(B, C, D, H, W)`."""
        radius = torch.full_like(molecules.pos[..., 0], self.config.radius)
        return self.voxels(molecules.pos, molecules.channel, radius, molecules.mask)

    def noisy(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """With white noise."""
        return clean + self.config.noise * torch.randn(
            clean.shape, generator=generator, device=clean.device, dtype=clean.dtype
        )

    def loss_of(self, step: int) -> Callable[[], Tensor]:
        """The closure of a step: the same batch and noise whenever it is called."""
        generator = generator_for(self.device, self.config.seed, step)
        number = self.config.molecules or len(self.molecules) - self.config.held
        picked = torch.randint(number, (self.config.batch,), generator=generator, device=self.device)
        molecules = self.molecules[self.config.held + picked]
        if self.kind == "so3":
            rotate = haar(self.config.batch, generator).to(molecules.pos)
            molecules = molecules.at(molecules.pos @ rotate.mT)
        clean = self.density(molecules)
        noisy = self.noisy(clean, generator)

        def loss() -> Tensor:
            with autocast(self.config, self.device):
                found = self.network(noisy)
            return (found.float() - clean).square().mean()

        return loss

    def held_out(self, count: int, batch: int = 16) -> Sums:
        """Squared error of held-out molecules over all 24 rotations of the cube: exact, noise rotated along."""
        self.network.eval()
        sums: Sums | None = None
        for start in range(0, count, batch):
            clean = self.density(self.molecules[start : min(start + batch, count)])
            noisy = self.noisy(clean, generator_for(self.device, self.config.seed, start, 1))
            orbit = ep.twirl(self.predict, noisy, SCHEMA, CUBE, floor=0, keep=False)
            part = ep.decompose(orbit, clean, "mse", structures="leading").sums
            sums = part if sums is None else sums + part
        assert sums is not None
        return sums

    def at_source(self) -> AtSource:
        """The noise-averaged denoiser; atoms are rotated before they are densities."""
        self.network.eval()
        generator = generator_for(self.device, self.config.seed, 0, 2)
        molecules = self.molecules[: self.config.rotated]
        return at_source(self.predict, self.density, lambda clean: self.noisy(clean, generator), molecules)

    def on_the_grid(self) -> ep.GridAudit:
        """The same rotated as grids, noise and all: by the cube's rotations, and by interpolation."""
        clean = self.density(self.molecules[: self.config.rotated // 2])
        noisy = self.noisy(clean, generator_for(self.device, self.config.seed, 0, 3))
        self.network.eval()
        return ep.audit_grid(self.predict, noisy, SCHEMA, clean, plan=PLANS["so3"], progress=False)

    def predict(self, grid: Tensor) -> Tensor:
        """The network without gradients."""
        with torch.no_grad(), autocast(self.config, self.device):
            return self.network(grid).float()


def train(config: Denoising, kind: str, until: int | None = None) -> tuple[Task, Run]:
    """One run, from the beginning or from its checkpoint."""
    task = Task(config, kind)
    probe = ep.Probe(task.network, SCHEMA, every=config.every, seed=config.seed)
    run = Run(f"denoise-{kind}", config, task.network, probe)
    if kind == "cube":
        run.augment(task.network, SCHEMA)
    run.fit(task.loss_of, lambda: by_key(task.held_out(config.watched)), until)
    return task, run


def main() -> None:
    """All runs, and what they show."""
    config, args = configured(PRESETS, __doc__)
    done: dict[str, Run] = {}
    audited: list[str] = []
    for kind in args.runs or RUNS:
        task, run = train(config, kind, args.until)
        done[kind] = run
        print(f"\n{kind}: {run.seconds:.0f} s of training; held out, cube:\n{run.table()}", flush=True)
        exact, found = task.held_out(config.held), task.at_source()
        print(f"\n{task.on_the_grid()}", flush=True)
        shares = [n.share for n in (exact, found.cube, found.so3)]
        cells = [f"{exact.total.value:.3g}", *(f"{100 * n.value:.3g} ± {100 * n.stderr:.1g} %" for n in shares)]
        cells.append(f"{100 * found.floor.equiv.value / found.so3.total.value:.2g} %")
        audited.append(f"| `{kind}` | " + " | ".join(cells) + " |")
    print("\n| run | `L_total` | share, cube | noise averaged: cube | SO(3) at the source | its interpolation floor |")
    print("|---|---|---|---|---|---|\n" + "\n".join(audited))
    trial = bool(args.set) or args.until is not None
    folder = run.folder.parent if trial else RESULTS
    curves({kind: run.rows for kind, run in done.items()}, f"denoise-{args.config}", "U-Net denoiser", folder)


if __name__ == "__main__":
    main()
