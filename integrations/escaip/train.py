"""Train EScAIP on forces, with and without augmentation; both parts of the loss in closed form, and by the probe.

    python integrations/escaip/train.py --data 3bpa --steps 10000 --seeds 0 1 2

The same command goes on where it was stopped. Rows of ``runs/<name>/steps.csv`` are of held-out structures, at steps
that are evenly spaced on a log scale; ``probe.json`` is what ``equiv_probe.Probe`` measured through its hooks.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from escaip import SIZES, batch, decomposed, escaip, forces_of, frames, labels
from scipy.spatial.transform import Rotation

import equiv_probe as ep

if TYPE_CHECKING:
    from torch import Tensor, nn

RUNS = Path(__file__).parent / "runs"
CHECKPOINT = 200
HELD = 64


@dataclass(frozen=True)
class Settings:
    """Of one training."""

    data: str
    size: str
    structures: int
    lr: float
    optimizer: str
    batch: int
    neighbours: int
    steps: int
    seed: int
    augment: bool

    @property
    def name(self) -> str:
        """Of its folder."""
        what = f"{self.data}_{self.size}_{self.structures or 'all'}_{self.optimizer}{self.lr:g}"
        return f"{what}_{'augmented' if self.augment else 'plain'}_{self.seed}"

    def made(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Model and optimizer at step 0."""
        model = escaip(self.size, neighbours=self.neighbours, seed=self.seed)
        makes = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[self.optimizer]
        return model, makes(model.parameters(), lr=self.lr)

    def drawn(self, train: list[Any], step: int) -> tuple[Any, Tensor]:
        """The batch of a step with its labels, a function of seed and step."""
        draw = torch.Generator().manual_seed(10**6 * self.seed + step)
        chosen = [train[k] for k in torch.randint(len(train), (self.batch,), generator=draw).tolist()]
        if not self.augment:
            return batch(chosen), labels(chosen).float()
        g = torch.tensor(Rotation.random(self.batch, random_state=10**6 * self.seed + step).as_matrix())
        of_atoms = g.repeat_interleave(torch.tensor([len(one) for one in chosen]), 0)
        return batch(chosen, g), torch.einsum("nij,nj->ni", of_atoms, labels(chosen)).float()


def measured_at(steps: int) -> set[int]:
    """Step 0, then twelve a decade, and the last."""
    return {0, steps} | {round(10 ** (k / 12)) for k in range(72) if 10 ** (k / 12) <= steps}


def split(name: str, structures: int) -> tuple[list[Any], list[Any]]:
    """Structures to train on, and those that are held out, always the same."""
    everything = frames(name)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(6)).tolist()
    chosen = [everything[k] for k in order]
    return chosen[HELD : HELD + structures if structures else None], chosen[:HELD]


def keep(folder: Path, state: dict[str, Any]) -> None:
    """What a stopped training goes on from, and the table so far."""
    torch.save(state, folder / "state.part")
    (folder / "state.part").replace(folder / "state.pt")
    with (folder / "steps.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, state["rows"][0])
        table.writeheader()
        table.writerows(state["rows"])


def run(settings: Settings) -> None:
    """One training, from where it was."""
    folder = RUNS / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    train, held = split(settings.data, settings.structures)
    scale = float(labels(train).square().mean())
    held_batch, held_labels = batch(held), labels(held)
    model, optimizer = settings.made()
    start, rows = 0, []
    if (folder / "state.pt").exists():
        state = torch.load(folder / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, rows = state["step"], state["rows"]
    probe = ep.Probe(model, every=max(1, settings.steps // 200))
    measured = measured_at(settings.steps)
    for step in range(start, settings.steps + 1):
        if step in measured and (not rows or rows[-1]["step"] < step):
            model.eval()
            rows.append({"step": step, **decomposed(model, held_batch, held_labels)})
            model.train()
            print(f"{settings.name} {step}: {rows[-1]['L_total']:.4g}, {100 * rows[-1]['share']:.3g} %", flush=True)
        if step == settings.steps or step % CHECKPOINT == 0:
            kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            keep(folder, {**kept, "step": step, "rows": rows})
        if step < settings.steps:
            data, wanted = settings.drawn(train, step)
            with probe:
                loss = (forces_of(model, data) - wanted).square().mean() / scale
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            optimizer.step()
    if start < settings.steps:
        probe.report().save(folder / "probe.json")


def main() -> None:
    """Trainings one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["ethanol", "3bpa", "gfn2"], default="3bpa")
    parser.add_argument("--size", choices=list(SIZES), default="medium")
    parser.add_argument("--structures", type=int, default=0, help="to train on; all by default")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--optimizer", choices=["adam", "sgd"], default="adam")
    parser.add_argument("--neighbours", type=int, default=30, help="as many as lie within 6 Å of an atom")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--augment", choices=["yes", "no", "both"], default="both")
    given = vars(parser.parse_args())
    augment = {"yes": [True], "no": [False], "both": [False, True]}[given.pop("augment")]
    for seed in given.pop("seeds"):
        for one in augment:
            run(Settings(**given, seed=seed, augment=one))


if __name__ == "__main__":
    main()
