"""Train one force field, and watch the share of broken symmetry in its loss.

    python integrations/force_field_training/training.py --config small --run augmented [--out runs/mine]

Every random draw is a function of the seed and the step, and a checkpoint holds the rest: the same command continues a
run that was stopped, to the same numbers.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import labelled_sets
import measuring
import torch
from force_field import (
    PADDING,
    Labelled,
    compositions,
    epoch_batches,
    fit_references,
    generator,
    haar_rotations,
)
from networks import network
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from settings import HERE, LANDMARKS, Settings
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.scaling.table import write_csv

EVERY = 1000  # steps after which a checkpoint is written at the latest


class Run:
    """One network, its optimiser, and what was measured on the way.

    Args:
        settings: what decides the result.
        out: folder of checkpoint, landmarks and log.
        device: where to train.
    """

    def __init__(self, settings: Settings, out: Path, device: str = "cpu") -> None:
        self.settings, self.out, self.device = settings, out, torch.device(device)
        s = settings
        self.plan = ep.RotationPlan(s.design, replicates=s.replicates, seed=measuring.SEED)
        self.sets = labelled_sets.sets(s.data, s.fraction, s.held_out, s.noise, s.seed)
        self.references = fit_references(self.sets.train)
        self.interaction = self._interaction(self.sets.train)
        self.sizes = (self.sets.train.species != PADDING).sum(1)
        self.energy_scale = self.interaction.square().mean().sqrt().item()
        self.force_scale = labelled_sets.rms(self.sets.train)
        with torch.random.fork_rng():
            torch.manual_seed(s.seed)
            self.net = network(s.model, s.width, s.layers, self.energy_scale, self.force_scale).to(self.device)
        self.optimisers = s.optimisers(self.net)
        self.step, self.seconds = 0, 0.0
        self.rows: list[dict[str, Any]] = []
        self._loss = torch.zeros((), device=self.device)
        self._losses = 0
        self._per_epoch = len(epoch_batches(self.sizes, s.batch, s.seed, 0))
        self._batches: tuple[int, list[Tensor]] = (-1, [])
        self._resume()

    def _interaction(self, data: Labelled) -> Tensor:
        """Energies without the references of the elements (B,), eV."""
        return (data.energies - compositions(data.species) @ self.references).float()

    def labels(self, data: Labelled) -> measuring.Batch:
        """Structures and labels as the network is compared with them, on the device."""
        sizes = (data.species != PADDING).sum(1)
        tensors = data.positions, data.species, self._interaction(data) / sizes, data.forces
        return measuring.Batch(*(value.to(self.device) for value in tensors))

    def batch(self) -> measuring.Batch:
        """The structures of this step, rotated if the settings say so."""
        epoch, place = divmod(self.step, self._per_epoch)
        if self._batches[0] != epoch:
            self._batches = epoch, epoch_batches(self.sizes, self.settings.batch, self.settings.seed, epoch)
        rows = self._batches[1][place]
        longest = int(self.sizes[rows].max())
        positions, forces = (v[rows, :longest] for v in (self.sets.train.positions, self.sets.train.forces))
        if self.settings.augment:
            rotate = haar_rotations(len(rows), generator(self.settings.seed, 1, self.step)).mT
            positions, forces = positions @ rotate, forces @ rotate
        tensors = (
            positions,
            self.sets.train.species[rows, :longest],
            self.interaction[rows] / self.sizes[rows],
            forces,
        )
        return measuring.Batch(*(value.to(self.device, non_blocking=True) for value in tensors))

    def loss(self, batch: measuring.Batch) -> Tensor:
        """Of forces and energy together, each in units of the labels' rms."""
        energy, forces = measuring.predict(self.net, batch.positions, batch.species)
        kind = measuring.LOSSES[self.settings.loss]
        power = 2 if self.settings.loss == "mse" else 1
        of_forces = kind(forces, batch.forces)[batch.species != PADDING].mean() / self.force_scale**power
        of_energy = kind(energy[:, None], batch.energy[:, None]).mean() / self.energy_scale**power
        return of_forces + self.settings.energy_weight * of_energy

    def train(self, until: int | None = None) -> Run:
        """Go on to a step, or to the end."""
        until = min(self.settings.steps if until is None else until, self.settings.steps)
        measured = set(self.settings.measured())
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns) as progress:
            task = progress.add_task(self.out.name, total=until, completed=self.step)
            self._measure_if(measured)
            began = self._clock()
            while self.step < until:
                self._train_step()
                self.step += 1
                if self.step in measured or self.step == until or self.step % EVERY == 0:
                    self.seconds += self._clock() - began
                    self._measure_if(measured)
                    self.save()
                    progress.update(task, completed=self.step)
                    began = self._clock()
        return self

    def _train_step(self) -> None:
        self.net.train()
        loss = self.loss(self.batch())
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.param_groups[0]["lr"] = self.settings.rate_at(self.step)
            optimiser.step()
        self._loss, self._losses = self._loss + loss.detach(), self._losses + 1

    def _clock(self) -> float:
        """Seconds of the device: of this process on a CPU that others use too, else of the wall."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()

    def _measure_if(self, measured: set[int]) -> None:
        if self.step not in measured or any(row["step"] == self.step for row in self.rows):
            return
        own = {"step": self.step, "seconds": self.seconds, "train_loss": float(self._loss) / max(1, self._losses)}
        self._loss, self._losses = torch.zeros_like(self._loss), 0
        # The gap between seen and unseen structures is looked at less often: it costs as much again.
        for part in ("held", "seen") if self.step in {*LANDMARKS, self.settings.steps} else ("held",):
            found = measuring.decomposed(self.net, self.labels(getattr(self.sets, part)), self.plan)
            self.rows += [{**own, "part": part, **row} for row in found]
        if self.step in LANDMARKS:
            self.out.mkdir(parents=True, exist_ok=True)
            torch.save(self.net.state_dict(), self.out / f"step{self.step}.pt")
        self.save()

    def save(self) -> None:
        """Write checkpoint and log."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_csv(self.out / "log.csv", self.rows)
        state = {
            "settings": asdict(self.settings),
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.rows,
            "loss": (self._loss, self._losses),
            "network": self.net.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        partial = self.out / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.out / "checkpoint.pt")  # whole, or not there

    def _resume(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise ValueError(f"{path} is of other settings; choose another --out, or delete it")
        self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]
        self._loss, self._losses = state["loss"]
        self.net.load_state_dict(state["network"])
        for optimiser, stored in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)


def main() -> None:
    """Train, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--run", required=True, help="its name in the config")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order, and one core for one run
    out = args.out or HERE / "runs" / args.config / args.run
    run = Run(Settings.read(args.config)[args.run], out, args.device).train()
    for row in run.rows:
        if row["part"] == "held" and row["output"] == "forces":
            share = f"{100 * row['share']:6.2f} ± {100 * row['share_stderr']:.2f} %"
            print(f"{row['step']:>6}  L_total {row['L_total']:.4g}  L_equiv {row['L_equiv']:.4g}  share {share}")


if __name__ == "__main__":
    main()
