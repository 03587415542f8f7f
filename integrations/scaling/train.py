"""Train one network on rigid bodies, and decompose its held-out loss at log-spaced steps.

    python integrations/scaling/train.py --model transformer --width 32 --structures 4000 [--augment] [--out runs/mine]

The learning rate is constant after its warm-up, and what is measured is the average of the weights over about the last
tenth of the steps so far: it stands in for a learning rate that decays to zero (Hägele et al., arXiv:2405.18392), so
that every measurement is that of a finished run of this length. Every random draw is a function of the seed and the
step, and a checkpoint holds the rest: the same command continues a run that was stopped, to the same numbers.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import bodies
import torch
from setting import NETWORKS, Setting
from torch.utils.flop_counter import FlopCounterMode

import equiv_probe as ep

HERE = Path(__file__).parent
SCHEMA = ep.Schema(
    inputs={"position": ep.point, "velocity": ep.vector, "mass": ep.fixed}, outputs={"displacement": ep.vector}
)
PLAN = ep.RotationPlan("tetrahedral", replicates=2)
AVERAGED = 6.94
"""Exponent of the average of weights, whose width is a tenth of the steps so far (Karras et al., arXiv:2312.02696)."""
LOSSES = ("total", "mean", "equiv")


class Run:
    """One network, the average of its weights, its optimiser, and what was measured.

    Args:
        setting: of the run.
        out: folder of the checkpoint.
        data: training structures and held-out ones; None makes them.
        device: where to train.
    """

    def __init__(
        self,
        setting: Setting,
        out: Path,
        data: tuple[bodies.Structures, bodies.Structures] | None = None,
        device: str = "cpu",
    ) -> None:
        self.setting, self.out, self.device = setting, out, device
        fit, held = data or load(setting.structures, setting.held_out)
        self.fit, self.held = fit.take(slice(setting.structures)).to(device), held.to(device)
        self.net = setting.network().to(device)
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=setting.rate, weight_decay=0.01, fused=True)
        self.augmentation = None
        if setting.augment:
            self.augmentation = ep.augment(self.net, SCHEMA, center="origin", seed=setting.seed)
        self.step, self.seconds, self.rows = 0, 0.0, []
        self.recent = torch.zeros((), device=device)
        self._resume()

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""
        return sum(p.numel() for p in self.net.parameters())

    @cached_property
    def flops_per_step(self) -> int:
        """Floating-point operations of products of matrices, forward and backward, of one step; not of the probe."""
        batch, net = self.fit.take(slice(0, 1)), copy.deepcopy(self.average).requires_grad_(True)
        with FlopCounterMode(display=False) as counted:
            net(batch.position, batch.velocity, batch.mass).sum().backward()
        return counted.get_total_flops() * self.setting.batch

    def train(self, until: int | None = None) -> Run:
        """Go on to a step, or to the end."""
        evaluated = set(self.setting.evaluated())
        if not self.rows:
            self._evaluate()
        began = self._now()
        while self.step < min(until or self.setting.steps, self.setting.steps):
            self._train_step()
            if self.step in evaluated:
                self.seconds += self._now() - began
                self._evaluate()
                self.save()
                began = self._now()
        return self

    def _now(self) -> float:
        """Seconds of the device: of this process on a CPU, which others may share."""
        if torch.device(self.device).type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def _train_step(self) -> None:
        setting = self.setting
        generator = torch.Generator(self.device).manual_seed(setting.seed + 1_000_003 * (self.step + 1))
        index = torch.randint(len(self.fit), (setting.batch,), generator=generator, device=self.device)
        batch = self.fit.take(index)
        for group in self.optimizer.param_groups:
            group["lr"] = setting.rate * min(1, (self.step + 1) / setting.warmup)
        self.net.train()
        reduced = setting.precision == "bfloat16"
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=reduced):
            output = self.net(batch.position, batch.velocity, batch.mass)
        loss = (output - batch.target).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()),
                list(self.net.parameters()),
                1 - (1 - 1 / self.step) ** (1 + AVERAGED),
            )
            self.recent.lerp_(loss, max(0.02, 1 / self.step))

    def _evaluate(self) -> None:
        """Decompose the held-out loss of the averaged weights; all runs see the same structures and rotations."""

        def predict(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            rotated = inputs["position"].shape[:2]
            mass = inputs["mass"].expand(*rotated, -1)
            given = (v.flatten(0, 1) for v in (inputs["position"], inputs["velocity"], mass))
            return {"displacement": self.average(*given).unflatten(0, rotated)}

        held = self.held
        given = {"position": held.position, "velocity": held.velocity, "mass": held.mass}
        with torch.no_grad():
            orbit = ep.twirl(
                predict, given, SCHEMA, PLAN, stacked=True, chunk=2, center="origin", floor=0, progress=False
            )
            own = (self.average(held.position, held.velocity, held.mass) - held.target).square().mean()
        found = ep.decompose(orbit, {"displacement": held.target}, "mse", structures="leading")
        row: dict[str, Any] = {
            "model": self.setting.title,
            "width": self.setting.width,
            "parameters": self.parameters,
            "structures": self.setting.structures,
            "seed": self.setting.seed,
            "step": self.step,
            "seconds": self.seconds,
            "flops": float(self.flops_per_step) * self.step,
            "train": self.recent.item() if self.step else float("nan"),
            "own": own.item(),
        }
        for name in LOSSES:
            row[f"L_{name}"], row[f"L_{name}_stderr"] = getattr(found, name), getattr(found, f"{name}_stderr")
        self.rows.append({**row, "share": found.share, "share_stderr": found.share_stderr})

    def save(self) -> None:
        """Write the checkpoint, and the rows for others to read."""
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "setting": self.setting.identity,
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.rows,
            "recent": self.recent,
            "network": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "augmentation": None if self.augmentation is None else self.augmentation.state_dict(),
        }
        partial = self.out / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.out / "checkpoint.pt")  # whole, or not there
        (self.out / "rows.json").write_text(json.dumps(self.rows, indent=1) + "\n")

    def _resume(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=False)
        if state["setting"] != self.setting.identity:
            raise ValueError(f"{path} is of another setting; choose another folder, or delete it")
        self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]
        self.recent = state["recent"]
        self.net.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.augmentation is not None:
            self.augmentation.load_state_dict(state["augmentation"])


def load(structures: int, held_out: int) -> tuple[bodies.Structures, bodies.Structures]:
    """Training structures and held-out ones; kept in `runs/data`."""
    cache = HERE / "runs" / "data"
    return bodies.generate(structures, cache=cache), bodies.generate(held_out, bodies.HELD_OUT, cache)


def main() -> None:
    """Train, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(NETWORKS), default="transformer")
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name in ("width", "layers", "structures", "steps", "seed", "batch"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Setting, name))
    parser.add_argument("--rate", type=float, default=Setting.rate)
    args = vars(parser.parse_args())
    out, device = args.pop("out"), args.pop("device")
    setting = Setting(**args)
    run = Run(setting, out or HERE / "runs" / "single" / setting.folder, device=device).train()
    print(f"{setting.folder}: {run.parameters} parameters, {run.flops_per_step:.3g} operations a step")
    for row in run.rows:
        losses = "  ".join(f"{key} {row[key]:.4g} ± {row[f'{key}_stderr']:.1g}" for key in ("L_total", "L_equiv"))
        share = f"{100 * row['share']:.2g} ± {100 * row['share_stderr']:.1g} %"
        print(f"{row['step']:>6}  {row['seconds']:6.1f} s  train {row['train']:.4f}  {losses}  share {share}")


if __name__ == "__main__":
    main()
