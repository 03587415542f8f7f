"""The loop both studies share: a probed step, a CSV log, checkpoints, and a run that goes on where it stopped.

Everything random in a step comes from a generator seeded by the run's seed and the step's number, so that a resumed run
sees the batches, noise and rotations that it would have seen.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import equiv_probe as ep
from equiv_probe.scaling.table import write_csv

if TYPE_CHECKING:
    from collections.abc import Callable

    from equiv_probe.estimation.estimates import Sums

KEYS = ("L_total", "L_mean", "L_equiv", "share", "share_stderr")


@dataclass(frozen=True)
class Training:
    """What any run needs to know.

    Attributes:
        steps: of the optimiser.
        batch: structures in a step.
        rate: at the beginning; it falls to zero along a cosine.
        optimizer: `"adamw"`, or `"sgd"` with Nesterov's momentum of 0.9.
        schedule: `"cosine"`, or `"constant"`.
        every: steps between two measurements of the probe, two rotations each.
        log: steps between two lines of the log, and two checkpoints.
        evaluate: steps between two evaluations on held-out structures.
        seed: of the weights and of everything drawn.
        amp: bfloat16 autocast, on CUDA only.
        folder: where runs are kept, beside the scripts.
        marks: steps at which the weights are kept, and held-out structures evaluated, besides.
    """

    steps: int = 1500
    batch: int = 16
    rate: float = 1e-3
    optimizer: str = "adamw"
    schedule: str = "cosine"
    every: int = 5
    log: int = 50
    evaluate: int = 250
    seed: int = 0
    amp: bool = False
    folder: str = "runs"
    marks: tuple[int, ...] = ()


C = TypeVar("C", bound=Training)


def by_key(sums: Sums) -> dict[str, float]:
    """`KEYS` of sums over structures."""
    found = {name: value.item() for name, value in sums.tensors().items()}
    return {key: found[key] for key in KEYS}


def generator_for(device: torch.device, *key: int) -> torch.Generator:
    """A generator of its own for each key, where the tensors are."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 32 | int(state[1]))


def device_of() -> torch.device:
    """CUDA if it is there."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(config: Training, device: torch.device) -> torch.autocast | nullcontext[None]:
    """The precision of forward passes."""
    return torch.autocast("cuda", torch.bfloat16) if config.amp and device.type == "cuda" else nullcontext()


def optimizer_of(config: Training, network: nn.Module) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The optimiser of a network's weights, and the schedule of its rate."""
    optimizers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adamw": lambda: torch.optim.AdamW(network.parameters(), lr=config.rate),
        "sgd": lambda: torch.optim.SGD(network.parameters(), lr=config.rate, momentum=0.9, nesterov=True),
    }
    schedules: dict[str, Callable[[int], float]] = {
        "cosine": lambda k: 0.5 * (1 + math.cos(math.pi * min(1.0, k / config.steps))),
        "constant": lambda _: 1.0,
    }
    for given, known in ((config.optimizer, optimizers), (config.schedule, schedules)):
        if given not in known:
            raise SystemExit(f"{given!r} is not among {', '.join(known)}")
    optimizer = optimizers[config.optimizer]()
    return optimizer, LambdaLR(optimizer, schedules[config.schedule])


class Run:
    """One run in a folder of its own: its log, its checkpoint.

    Args:
        name: of the run.
        config: stored beside the log; another one under the same name is an error.
        network: what is trained.
        probe: on the network, or on a module around it.
        title: shown in the progress bar.
    """

    def __init__(self, name: str, config: Training, network: nn.Module, probe: ep.Probe) -> None:
        self.name, self.config, self.network, self.probe = name, config, network, probe
        self.folder = Path(__file__).parent / config.folder / name  # an absolute folder stays what it is
        self.folder.mkdir(parents=True, exist_ok=True)
        self.optimizer, self.schedule = optimizer_of(config, network)
        self.step, self.seconds, self.rows = 0, 0.0, list[dict[str, float]]()
        self.augmentation: ep.Augmentation | None = None
        self._augmentation_state: dict[str, Any] | None = None
        stored = self.folder / "config.json"
        mine = json.loads(json.dumps({k: v for k, v in asdict(config).items() if k != "folder"}))
        if stored.exists() and json.loads(stored.read_text()) != mine:
            raise SystemExit(
                f"{self.folder} holds a run with another configuration: delete it, or choose --set folder=…"
            )
        stored.write_text(json.dumps(mine, indent=1))
        if (self.folder / "checkpoint.pt").exists():
            self._resume()

    def _resume(self) -> None:
        # To the CPU, where states of generators have to be; what belongs to weights is moved by its owner.
        state = torch.load(self.folder / "checkpoint.pt", map_location="cpu", weights_only=False)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.probe.load_state_dict(state["probe"])
        self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]
        self._augmentation_state = state["augmentation"]

    def augment(self, module: nn.Module, schema: ep.Schema, **options: Any) -> None:
        """Rotate training inputs at random until the end of the run; a resumed one goes on with the same rotations."""
        self.augmentation = ep.augment(module, schema, seed=self.config.seed, **options)
        if self._augmentation_state is not None:
            self.augmentation.load_state_dict(self._augmentation_state)

    def save(self) -> None:
        """Checkpoint and log, so that either is whole if the run is killed."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "probe": self.probe.state_dict(),
            "augmentation": None if self.augmentation is None else self.augmentation.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.rows,
        }
        torch.save(state, self.folder / "checkpoint.tmp")
        (self.folder / "checkpoint.tmp").replace(self.folder / "checkpoint.pt")
        names = ["step", "seconds", "loss", *(f"{stage}/{key}" for stage in ("train", "held") for key in KEYS)]
        write_csv(self.folder / "log.csv", self.rows, names=names)

    def fit(
        self,
        loss_of: Callable[[int], Callable[[], Tensor]],
        held_out: Callable[[], dict[str, float]],
        until: int | None = None,
    ) -> list[dict[str, float]]:
        """Train to the end, or until a step, and return the lines of the log.

        Args:
            loss_of: from the step's number the closure that computes its loss.
            held_out: the decomposition on held-out structures, by `KEYS`.
            until: stop there, as a run that was interrupted does.
        """
        last = self.config.steps if until is None else until
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        recent: list[Tensor] = []
        with Progress(*columns, transient=True) as progress:
            task = progress.add_task(self.name, total=self.config.steps, completed=self.step)
            if self.step == 0 and not self.rows:
                self._line({}, held_out())
                self._keep_mark()
            while self.step < last:
                began = time.perf_counter()
                self.network.train()
                loss = self.probe.step(loss_of(self.step), stage="train")
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                self.schedule.step()
                recent.append(loss.detach())
                self.step += 1
                self.seconds += time.perf_counter() - began
                progress.update(task, completed=self.step)
                marked = self.step in self.config.marks
                if self.step % self.config.log == 0 or self.step == last or marked:
                    due = self.step % self.config.evaluate == 0 or self.step == self.config.steps or marked
                    names = {f"equiv/train/loss/{key}": key for key in KEYS}
                    train = {names[name]: value for name, value in self.probe.compute().items() if name in names}
                    self._line({"loss": float(torch.stack(recent).mean())}, held_out() if due else {}, train)
                    recent = []
                    self._keep_mark()
                    self.save()
        self.network.eval()
        if self.augmentation is not None:
            self.augmentation.remove()
        return self.rows

    def weights_at(self, step: int) -> Path:
        """Where the weights of a mark are."""
        return self.folder / f"weights-{step}.pt"

    def _keep_mark(self) -> None:
        if self.step in self.config.marks:
            torch.save(self.network.state_dict(), self.weights_at(self.step))

    def _line(self, own: dict[str, float], held: dict[str, float], train: dict[str, float] | None = None) -> None:
        line = {"step": float(self.step), "seconds": self.seconds, **own}
        line |= {f"train/{key}": value for key, value in (train or {}).items()}
        self.rows.append(line | {f"held/{key}": held[key] for key in KEYS if key in held})

    def table(self) -> str:
        """What was found on held-out structures, for people."""
        lines = ["  step   L_total    L_mean   L_equiv    share"]
        for row in self.rows:
            if "held/share" in row:
                total, mean, equiv, share, error = (row[f"held/{key}"] for key in KEYS)
                shown = f"{total:9.3g} {mean:9.3g} {equiv:9.3g} {100 * share:6.2f} ± {100 * error:.2f} %"
                lines.append(f"{row['step']:>6.0f} {shown}")
        return "\n".join(lines)


def configured(presets: dict[str, C], about: str | None) -> tuple[C, argparse.Namespace]:
    """Read the command line: a preset, and `--set name=value` for single entries.

    Args:
        presets: by name; the first is the default.
        about: the script's docstring.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=list(presets), default=next(iter(presets)))
    parser.add_argument("--runs", nargs="+", help="which of the runs; all by default")
    parser.add_argument("--until", type=int, help="stop at this step, as if interrupted; the same command goes on")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="another value for an entry")
    args = parser.parse_args()
    config = presets[args.config]
    known = {field.name for field in fields(config)}
    for entry in args.set:
        name, _, text = entry.partition("=")
        if name not in known:
            parser.error(f"{name!r} is not among {', '.join(sorted(known))}")
        value = text if isinstance(getattr(config, name), str) else ast.literal_eval(text)
        config = replace(config, **{name: value})
    return config, args
