"""Train EScAIP on forces, and what lies between it and a transformer on coordinates; log both losses and gradients.

    python integrations/escaip/train.py --data gfn2 --steps 10000 --seeds 0 1 2
    python integrations/escaip/train.py --data ethanol --model absolute coordinates escaip --augment no
    python integrations/escaip/train.py --paper --device cuda --augment no     # its size, batch, rate and steps

The same command goes on where it was stopped, to the same numbers. ``runs/<name>/steps.csv`` are held-out structures,
at steps that are evenly spaced on a log scale; ``probe.json`` is what ``equiv_probe.Probe`` measured through its hooks
on training batches since the last start.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from escaip import NEIGHBOURS, SIZES, SizeName, frames, labels
from measuring import HELD, measured
from models import Model, batch, forces_of, network
from scipy.spatial.transform import Rotation

import equiv_probe as ep

if TYPE_CHECKING:
    from torch import Tensor, nn

RUNS = Path(__file__).parent / "runs"
CHECKPOINT = 500
OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}

read = cache(frames)


@dataclass(frozen=True)
class Settings:
    """Of one training."""

    data: str
    model: Model
    size: SizeName
    structures: int
    lr: float
    optimizer: str
    batch: int
    augment: bool
    seed: int
    decay: int = 0
    """Steps after which a cosine has brought the learning rate to zero; 0 for a constant one."""

    @property
    def name(self) -> str:
        """Of its folder."""
        what = f"{self.data}_{self.model}_{self.size}_{self.structures or 'all'}_{self.optimizer}{self.lr:g}"
        what += f"_cosine{self.decay}" if self.decay else ""
        return f"{what}_batch{self.batch}_{'augmented' if self.augment else 'plain'}_{self.seed}"

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.lr * (0.5 * (1 + math.cos(math.pi * step / self.decay)) if self.decay else 1.0)

    def drawn(self, model: nn.Module, train: list[Any], step: int) -> tuple[Any, Tensor]:
        """The batch of a step with its labels, a function of seed and step."""
        draw = torch.Generator().manual_seed(10**6 * self.seed + step)
        chosen = [train[k] for k in torch.randint(len(train), (self.batch,), generator=draw).tolist()]
        if not self.augment:
            return batch(model, chosen), labels(chosen).float()
        g = torch.tensor(Rotation.random(self.batch, random_state=10**6 * self.seed + step).as_matrix())
        of_atoms = g.repeat_interleave(torch.tensor([len(one) for one in chosen]), 0)
        return batch(model, chosen, g), torch.einsum("nij,nj->ni", of_atoms, labels(chosen)).float()


def measured_at(steps: int) -> set[int]:
    """Step 0, then ten a decade, and the last."""
    return {0, steps} | {round(10 ** (k / 10)) for k in range(70) if 10 ** (k / 10) <= steps}


class Training:
    """A training that can be stopped and goes on.

    Args:
        settings: of it.
        device: where.
    """

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        self.settings, self.device, self.folder = settings, device, RUNS / settings.name
        self.folder.mkdir(parents=True, exist_ok=True)
        train, held = read(settings.data)
        self.train = train[: settings.structures] if settings.structures else train
        self.held = held[:HELD]
        self.scale = float(labels(train).square().mean())
        self.model = network(
            settings.model, settings.size, NEIGHBOURS[settings.data], self.scale**0.5, settings.seed
        ).to(device)
        weights = [one for one in self.model.parameters() if one.requires_grad]
        self.optimizer = OPTIMIZERS[settings.optimizer](weights, lr=settings.lr)
        self.step, self.seconds, self.rows = 0, 0.0, []
        if (self.folder / "state.pt").exists():
            state = torch.load(self.folder / "state.pt", device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]

    def to(self, steps: int) -> None:
        """Go on to a step."""
        if self.step >= steps:
            return
        probe = ep.Probe(self.model)
        due = measured_at(steps)
        started = time.process_time()
        while True:
            if self.step in due and (not self.rows or self.rows[-1]["step"] < self.step):
                self.measure()
            if self.step == steps or self.step % CHECKPOINT == 0:
                self.keep(self.seconds + time.process_time() - started)
            if self.step == steps:
                break
            data, wanted = self.settings.drawn(self.model, self.train, self.step)
            with probe:
                loss = (forces_of(self.model, data) - wanted.to(self.device)).square().mean() / self.scale
            self.optimizer.param_groups[0]["lr"] = self.settings.rate(self.step)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 100.0)
            self.optimizer.step()
            self.step += 1
        probe.report().save(self.folder / "probe.json")

    def measure(self) -> None:
        """A row of the table: the losses, and at every second one the gradients."""
        found = measured(self.model, self.held, gradients=len(self.rows) % 2 == 0)
        self.rows.append({"step": self.step, **found})
        print(f"{self.settings.name} {self.step}: {found['L_total']:.4g}, {100 * found['share']:.3g} %", flush=True)

    def keep(self, seconds: float) -> None:
        """What a stopped training goes on from, and the table so far."""
        partial = self.folder / "state.part"
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "step": self.step, "seconds": seconds, "rows": self.rows}, partial)
        partial.replace(self.folder / "state.pt")
        with (self.folder / "steps.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, [*asdict(self.settings), *self.rows[0]])
            table.writeheader()
            table.writerows(asdict(self.settings) | row for row in self.rows)


def main() -> None:
    """Trainings one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(NEIGHBOURS), default="gfn2")
    parser.add_argument("--model", choices=["escaip", "absolute", "free", "coordinates"], nargs="+", default=["escaip"])
    parser.add_argument("--size", choices=list(SIZES), nargs="+", default=["medium"])
    parser.add_argument("--structures", type=int, nargs="+", default=[0], help="to train on; 0 for all")
    parser.add_argument("--lr", type=float, nargs="+", default=[5e-4])
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default="adam")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--cosine", action="store_true", help="bring the learning rate to zero")
    parser.add_argument("--augment", choices=["yes", "no", "both"], default="both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--paper", action="store_true", help="defaults as in the paper: hours of a GPU")
    if parser.parse_known_args()[0].paper:
        parser.set_defaults(size=["paper"], batch=64, lr=[1e-5], steps=450_000)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    augment = {"yes": [True], "no": [False], "both": [False, True]}[given.augment]
    for seed, one, model, size, lr, structures in product(
        given.seeds, augment, given.model, given.size, given.lr, given.structures
    ):
        decay = given.steps if given.cosine else 0
        settings = Settings(given.data, model, size, structures, lr, given.optimizer, given.batch, one, seed, decay)
        Training(settings, given.device).to(given.steps)


if __name__ == "__main__":
    main()
