"""Train one network by flow matching, and watch the share of broken symmetry in its loss.

    python integrations/flow/train.py --config small --model transformer [--augment] [--predict data] [--out runs/mine]

A plain loop: the probe is three lines of it (`ep.Probe`, `probe.step`, and again on held-out batches). Every random
draw is a function of the seed and the step, and a checkpoint holds the rest: the same command continues a run that was
stopped, to the same numbers.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import flow
import structures
import torch
import yaml
from egnn import EGNN
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformer import Transformer

import equiv_probe as ep
from equiv_probe.scaling.table import write_csv

HERE = Path(__file__).parent
KINDS = 256  # elements, or residue numbers
EVALUATION_SEED = 2**40  # no step's seed: held-out noise and times are the same at every evaluation
Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "constant"]
LOGGED = ("L_total", "L_mean", "L_equiv", "share")


@dataclass(frozen=True)
class Config:
    """A run; the fields' names are those of `configs/*.yaml`."""

    data: str = "ligands"
    predict: flow.Predict = "velocity"
    width: int = 96
    layers: int = 4
    heads: int = 4
    egnn_width: int = 16
    egnn_layers: int = 3
    steps: int = 3000
    batch: int = 64
    rate: float = 1e-3
    warmup: int = 100
    every: int = 50  # training steps between two measurements
    evaluations: int = 24  # of held-out structures, see `evaluated`
    held_out: int = 256  # structures in each of them
    precision: str = "float32"  # or bfloat16: automatic mixed precision
    seed: int = 0
    marks: tuple[int, ...] = ()  # steps at which held-out structures are measured and the weights are kept, besides
    structures: int = 0  # of the training set, drawn at random; 0 for all
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "cosine"

    @classmethod
    def read(cls, name: str, **changes: Any) -> Config:
        """A file of `configs`, by its name or path; ``None`` changes nothing."""
        path = HERE / "configs" / f"{name}.yaml"
        given = yaml.safe_load((path if path.exists() else Path(name)).read_text()) or {}
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"{name}: {unknown} are not fields of a configuration")
        marks = tuple(given.pop("marks", ()))
        return cls(**{**given, "marks": marks, **{k: value for k, value in changes.items() if value is not None}})

    def network(self, model: str) -> torch.nn.Module:
        """A new network, from the seed."""
        torch.manual_seed(self.seed)
        if model == "egnn":
            return EGNN(KINDS, self.egnn_width, self.egnn_layers)
        return Transformer(KINDS, self.width, self.layers, self.heads)

    def evaluated(self) -> set[int]:
        """Steps before which held-out structures are measured: the first, and from the tenth on at equal ratios."""
        first, count = min(10, self.steps), max(1, self.evaluations - 2)
        marks = (step for step in self.marks if step < self.steps)
        return {0, *marks, *(round(first * (self.steps / first) ** (k / count)) for k in range(count + 1))}

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero, or no change."""
        rest = 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.schedule == "cosine" else 1.0
        return self.rate * min(1, (step + 1) / self.warmup) * rest

    def optimizer_of(self, net: torch.nn.Module) -> torch.optim.Optimizer:
        """Of a network's weights."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(net.parameters(), lr=self.rate, momentum=0.9, nesterov=True)
        return torch.optim.AdamW(net.parameters(), lr=self.rate)


class Run:
    """One network, its optimiser, its probe, and what they came to.

    Args:
        config: sizes and lengths.
        model: ``"transformer"`` or ``"egnn"``.
        augment: whether training structures are rotated at random.
        out: folder of checkpoint and log.
        device: where to train.
    """

    def __init__(
        self, config: Config, model: str = "transformer", *, augment: bool = False, out: Path, device: str = "cpu"
    ) -> None:
        self.config, self.device, self.out = config, device, out
        self.fit, self.held = structures.load(config.data)
        if config.structures:
            chosen = torch.randperm(len(self.fit), generator=torch.Generator().manual_seed(config.seed))
            self.fit = self.fit.subset(chosen[: config.structures])
        self.net = config.network(model).to(device)
        self.optimizer = config.optimizer_of(self.net)
        schema = flow.schema(config.predict)
        plan = ep.RotationPlan("haar", replicates=4)
        self.probe = ep.Probe(
            self.net, schema, plan, every=config.every, full=1, cost=None, center="origin", seed=config.seed
        )
        self.augmentation = ep.augment(self.net, schema, center="origin", seed=config.seed) if augment else None
        self.step, self.rows, self.seconds = 0, [], 0.0
        self._resume()

    def loss(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Of a batch; draws noise and times."""
        reduced = self.config.precision == "bfloat16"
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=reduced):
            return flow.loss(self.net, *batch, self.config.predict)

    def train(self, until: int | None = None) -> Run:
        """Go on to a step, or to the end."""
        evaluated, until = self.config.evaluated(), min(until or self.config.steps, self.config.steps)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns) as progress:
            task = progress.add_task(self.out.name, total=until, completed=self.step)
            began = time.perf_counter()
            while self.step < until:
                if self.step in evaluated:
                    self.evaluate()
                self._keep_mark()
                self._train_step()
                self.step += 1
                progress.update(task, completed=self.step)
                if self.step == until or self.step in evaluated:
                    self.seconds, began = self.seconds + time.perf_counter() - began, time.perf_counter()
                    self._note("train")
                    if self.step == self.config.steps:
                        self.evaluate()
                    self.save()
        self._keep_mark()
        return self

    def weights_at(self, step: int) -> Path:
        """Where the weights of a mark are."""
        return self.out / f"weights-{step}.pt"

    def _keep_mark(self) -> None:
        if self.step in self.config.marks and not self.weights_at(self.step).exists():
            self.out.mkdir(parents=True, exist_ok=True)
            torch.save(self.net.state_dict(), self.weights_at(self.step))

    def _train_step(self) -> None:
        torch.manual_seed(self.config.seed + 1_000_003 * (self.step + 1))
        batch = self.fit.random(self.config.batch, self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate_at(self.step)
        self.net.train()
        loss = self.probe.step(lambda: self.loss(batch))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()

    def evaluate(self) -> dict[str, float]:
        """Measure the held-out loss, at noise and times that are always the same."""
        self.net.eval()
        self.probe.begin_epoch("val", fresh=True)
        torch.manual_seed(EVALUATION_SEED)
        count, size, own = min(self.config.held_out, len(self.held)), min(32, self.config.batch), []
        for index in torch.arange(count).split(size):
            batch = self.held.take(index, self.device)
            with torch.no_grad():
                own.append(self.probe.step(lambda batch=batch: self.loss(batch), stage="val"))
        return self._note("val", loss=torch.stack(own).mean().item())

    def _note(self, stage: str, **own: float) -> dict[str, float]:
        found = self.probe.compute(window=stage == "train")
        named = {key.split("/")[-1]: value for key, value in found.items() if key.startswith(f"equiv/{stage}/loss/")}
        row = {"step": self.step, "stage": stage, "seconds": round(self.seconds, 1), **own, **named}
        if named and row not in self.rows:
            self.rows.append(row)
        return row

    def save(self) -> None:
        """Write checkpoint and log."""
        self.out.mkdir(parents=True, exist_ok=True)
        names = [f"{name}{error}" for name in LOGGED for error in ("", "_stderr")]
        write_csv(self.out / "log.csv", self.rows, names=["step", "stage", "seconds", "loss", *names])
        state = {
            "config": asdict(self.config),
            "step": self.step,
            "rows": self.rows,
            "seconds": self.seconds,
            "network": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "probe": self.probe.state_dict(),
            "augmentation": None if self.augmentation is None else self.augmentation.state_dict(),
        }
        partial = self.out / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.out / "checkpoint.pt")  # whole, or not there

    def _resume(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=False)
        if state["config"] != asdict(self.config):
            raise ValueError(f"{path} is of another configuration; choose another --out, or delete it")
        self.step, self.rows, self.seconds = state["step"], state["rows"], state["seconds"]
        self.net.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.probe.load_state_dict(state["probe"])
        if self.augmentation is not None:
            self.augmentation.load_state_dict(state["augmentation"])


def main() -> None:
    """Train, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--model", choices=("transformer", "egnn"), default="transformer")
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name in ("data", "predict"):
        parser.add_argument(f"--{name}")
    for name in ("steps", "seed"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    config = Config.read(args.config, data=args.data, predict=args.predict, steps=args.steps, seed=args.seed)
    out = args.out or HERE / "runs" / args.config / f"{args.model}{'-rotated' if args.augment else ''}"
    run = Run(config, args.model, augment=args.augment, out=out, device=args.device).train()
    for row in run.rows:
        if row["stage"] == "val":
            share = f"{100 * row['share']:6.2f} ± {100 * row['share_stderr']:.2f} %"
            print(f"{row['step']:>6}  L_total {row['L_total']:.4f}  L_equiv {row['L_equiv']:.5f}  share {share}")


if __name__ == "__main__":
    main()
