"""What decides a run: data, network, loss, optimiser, lengths; read from `configs/*.yaml`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import yaml
from torch import nn

if TYPE_CHECKING:
    import labelled_sets
    import measuring
    from networks import Model

HERE = Path(__file__).parent
LANDMARKS = (0, 100, 1000, 3000, 10000)  # steps at which the weights are kept
Optimiser = Literal["adamw", "adamw-constant", "sgd", "muon"]


@dataclass(frozen=True)
class Settings:
    """A run; the fields' names are those of `configs/*.yaml`."""

    data: labelled_sets.Data = "gfn2"
    model: Model = "transformer"
    augment: bool = False
    width: int = 64
    layers: int = 3
    fraction: float = 1.0  # of the training set
    noise: float = 0.0  # on all force labels, in units of their rms component
    loss: measuring.Loss = "mse"
    optimiser: Optimiser = "adamw"
    rate: float = 2e-3
    warmup: int = 200
    energy_weight: float = 10.0  # of the energy per atom beside the forces, both in units of the labels' rms
    steps: int = 10000
    batch: int = 16
    held_out: int = 60  # structures that are measured
    evaluations: int = 14  # steps at which they are, beside the landmarks
    design: str = "tetrahedral"  # of the rotations in each evaluation
    replicates: int = 2
    seed: int = 0

    @classmethod
    def read(cls, name: str) -> dict[str, Settings]:
        """The runs of a file of `configs`, by its name or path.

        Raises:
            ValueError: something in it is not a field of a run.
        """
        path = HERE / "configs" / f"{name}.yaml"
        given = yaml.safe_load((path if path.exists() else Path(name)).read_text())
        runs = {title: {**given.get("all", {}), **(own or {})} for title, own in given["runs"].items()}
        unknown = sorted({key for run in runs.values() for key in run} - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"{name}: {unknown} are not fields of a run")
        return {title: cls(**run) for title, run in runs.items()}

    def measured(self) -> list[int]:
        """Steps at which the network is measured: the landmarks, and from the tenth on at equal ratios, to the end."""
        first = min(10, self.steps)
        ratio = self.steps / first
        spread = {round(first * ratio ** (k / (self.evaluations - 1))) for k in range(self.evaluations)}
        return sorted(step for step in spread | set(LANDMARKS) if step <= self.steps)

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero, or a constant."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.optimiser != "adamw-constant" else 1.0
        return self.rate * min(1.0, (step + 1) / self.warmup) * cosine

    def optimisers(self, net: nn.Module) -> list[torch.optim.Optimizer]:
        """Of all parameters; Muon takes the matrices of the layers, and leaves the rest to AdamW."""
        if self.optimiser == "sgd":
            return [torch.optim.SGD(net.parameters(), lr=self.rate, momentum=0.9)]
        if self.optimiser != "muon":
            return [torch.optim.AdamW(net.parameters(), lr=self.rate, weight_decay=1e-4)]
        matrices = [p for name, p in net.named_parameters() if p.ndim == 2 and name.startswith("layers.")]
        rest = [p for p in net.parameters() if all(p is not matrix for matrix in matrices)]
        muon = torch.optim.Muon(matrices, lr=self.rate, weight_decay=1e-4, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(rest, lr=self.rate, weight_decay=1e-4)]
