"""Train the transformer force field on the molecules that `make_data.py` made.

    python integrations/force_field/train.py

writes `weights.pt`. The same command on the same machine gives the same weights: every random draw is a function of the
seed and the step alone, so a run that is interrupted and resumed gives them too.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import evaluate
import torch
import typer
from labelled import Labelled, compositions, fit_references, generator, haar_rotations, load
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from torch import Tensor, nn
from transformer import ELEMENTS, PADDING, WEIGHTS, Config, Transformer

DATA = Path(__file__).parent / "data"
WARM_UP = 200  # steps
POOL = 8  # batches that are sorted by size together
ENERGY_WEIGHT = (
    10.0  # of the squared energy error per atom, beside the squared force error, both in units of the labels' rms
)


class Settings(NamedTuple):
    """What decides the weights, beside the data."""

    steps: int = 12000
    batch: int = 16
    lr: float = 2e-3
    width: int = 64
    layers: int = 3
    seed: int = 0
    augment: bool = True


def epoch_batches(sizes: Tensor, batch: int, seed: int, epoch: int) -> list[Tensor]:
    """Shuffle structure indices into batches of similar size, which saves most of the padding."""
    rng = generator(seed, 0, epoch)
    batches: list[Tensor] = []
    for pool in torch.split(torch.randperm(len(sizes), generator=rng), POOL * batch):
        batches += torch.split(pool[sizes[pool].argsort(stable=True)], batch)
    order = torch.randperm(len(batches), generator=rng)
    return [batches[k] for k in order]


def learning_rate(step: int, settings: Settings) -> float:
    """Warm up linearly, then decay along a cosine to zero."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return settings.lr * min(1.0, (step + 1) / WARM_UP) * cosine


class Run:
    """A training run: the network, its optimizer and the number of steps done.

    Args:
        data: the training set.
        settings: what decides the result.
        device: where to train.
    """

    def __init__(self, data: Labelled, settings: Settings, device: str = "cpu") -> None:
        self.data, self.settings, self.device = data, settings, device
        self.references = fit_references(data)
        self.interaction = (data.energies - compositions(data.species) @ self.references).float()
        self.sizes = (data.species != PADDING).sum(1)
        config = Config(
            width=settings.width,
            layers=settings.layers,
            energy_scale=self.interaction.square().mean().sqrt().item(),
            force_scale=data.forces[data.species != PADDING].square().mean().sqrt().item(),
        )
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.network = Transformer(config).to(device).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.lr, weight_decay=1e-4)
        self.done = 0
        self._per_epoch = len(epoch_batches(self.sizes, settings.batch, settings.seed, 0))
        self._batches: list[Tensor] = []

    def batch(self) -> tuple[Labelled, Tensor]:
        """The next batch, rotated if the settings say so, and its sizes (B,); energies are without references."""
        epoch, place = divmod(self.done, self._per_epoch)
        if place == 0 or not self._batches:
            self._batches = epoch_batches(self.sizes, self.settings.batch, self.settings.seed, epoch)
        rows = self._batches[place]
        longest = int(self.sizes[rows].max())
        positions, forces = self.data.positions[rows, :longest], self.data.forces[rows, :longest]
        if self.settings.augment:
            rotate = haar_rotations(len(rows), generator(self.settings.seed, 1, self.done)).mT
            positions, forces = positions @ rotate, forces @ rotate
        tensors = (positions, self.data.species[rows, :longest], self.interaction[rows], forces)
        return Labelled(*(tensor.to(self.device) for tensor in tensors)), self.sizes[rows].to(self.device)

    def step(self) -> float:
        """Take one step of AdamW and return the loss before it."""
        batch, sizes = self.batch()
        energies, forces = self.network(batch.positions, batch.species)
        config = self.network.config
        force_error = (forces - batch.forces)[batch.species != PADDING] / config.force_scale
        energy_error = (energies - batch.energies) / sizes / config.energy_scale
        loss = force_error.square().mean() + ENERGY_WEIGHT * energy_error.square().mean()
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.done, self.settings)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.done += 1
        return float(loss.detach())

    def save_checkpoint(self, path: Path) -> None:
        """Write all that the next step depends on; a kill while writing leaves the previous file whole."""
        state = {
            "settings": self.settings._asdict(),
            "done": self.done,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load_checkpoint(self, path: Path) -> None:
        """Continue from what `save_checkpoint` wrote.

        Raises:
            ValueError: the file belongs to a run with other settings.
        """
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if saved["settings"] != self.settings._asdict():
            raise ValueError(f"{path.name} belongs to {saved['settings']}; pass those settings, or leave out --resume")
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.done = saved["done"]
        self._batches = []

    def save_weights(self, path: Path) -> None:
        """Write what `transformer.calculator` loads: half-precision weights, config, references."""
        stored = {
            "elements": list(ELEMENTS),
            "config": self.network.config._asdict(),
            "references": self.references,
            "settings": self.settings._asdict(),
            "state": {name: value.half().cpu() for name, value in self.network.state_dict().items()},
        }
        torch.save(stored, path)


def main(
    *,
    steps: Annotated[int, typer.Option(help="optimizer steps")] = Settings().steps,
    batch: Annotated[int, typer.Option(help="molecules per step")] = Settings().batch,
    lr: Annotated[float, typer.Option(help="peak learning rate")] = Settings().lr,
    width: Annotated[int, typer.Option(help="features per atom")] = Settings().width,
    layers: Annotated[int, typer.Option(help="attention layers")] = Settings().layers,
    seed: Annotated[int, typer.Option(help="of the initial weights, the batches and the rotations")] = 0,
    augment: Annotated[bool, typer.Option(help="rotate every molecule by a Haar rotation at every step")] = True,
    device: Annotated[str, typer.Option(help="where to train, as torch spells it")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; the last digits depend on it")] = 1,
    every: Annotated[int, typer.Option(help="steps between two looks at the held-out set")] = 1000,
    resume: Annotated[bool, typer.Option("--resume", help="continue from data/checkpoint.pt")] = False,
    out: Annotated[Path, typer.Option(help="the weights")] = WEIGHTS,
) -> None:
    """Train the force field and write its weights."""
    torch.set_num_threads(threads)
    train_file, checkpoint = DATA / "train.extxyz", DATA / "checkpoint.pt"
    if not train_file.exists():
        raise typer.BadParameter("data/train.extxyz is not there; run make_data.py first")
    heldout = load(evaluate.HELD_OUT)
    settings = Settings(steps=steps, batch=batch, lr=lr, width=width, layers=layers, seed=seed, augment=augment)
    run = Run(load(train_file), settings, device)
    if resume and checkpoint.exists():
        run.load_checkpoint(checkpoint)
    print(f"{sum(p.numel() for p in run.network.parameters())} parameters; {settings}")
    started = time.perf_counter()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task("training", total=steps, completed=run.done)
        while run.done < steps:
            loss = run.step()
            progress.update(task, completed=run.done)
            if run.done % every == 0 or run.done == steps:
                run.save_checkpoint(checkpoint)
                found = evaluate.errors(run.network, run.references, heldout)
                progress.console.print(
                    f"step {run.done:6d}  loss {loss:.4f}  {evaluate.describe(found)}", soft_wrap=True
                )
    print(f"{time.perf_counter() - started:.0f} s on {device} with {threads} thread(s)")
    run.save_weights(out)
    print(f"{out.name}: {out.stat().st_size / 1000:.0f} kB")
    # Judged as it is stored: after rounding to half precision.
    evaluate.main(weights=out)


if __name__ == "__main__":
    typer.run(main)
