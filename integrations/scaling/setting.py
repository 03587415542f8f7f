"""What a run is: its model, sizes, data and length."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from networks import EGNN, EquivariantTransformer, Framed, Transformer

if TYPE_CHECKING:
    from torch import nn

NETWORKS: dict[str, type[nn.Module]] = {
    "transformer": Transformer,
    "equivariant": EquivariantTransformer,
    "framed": Framed,
    "egnn": EGNN,
}
TITLES = {
    "transformer": "transformer",
    "equivariant": "equivariant transformer",
    "framed": "transformer, framed",
    "egnn": "EGNN",
}


@dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        model: one of `NETWORKS`.
        augment: whether training structures are rotated at random.
        width: of a token, or of features and messages.
        layers: blocks, or rounds of messages.
        structures: in the training set.
        steps: to the end; a run that is done is continued when there are more of them.
        seed: of weights and batches.
        batch: structures in a step, drawn with replacement.
        rate: of learning, after the warm-up.
        warmup: steps of it.
        held_out: structures on which the loss is decomposed.
        precision: or bfloat16, automatic mixed precision in training.
        mark: added to the title, where settings differ in what it does not say.
    """

    model: str = "transformer"
    augment: bool = False
    width: int = 32
    layers: int = 2
    structures: int = 4096
    steps: int = 1000
    seed: int = 0
    batch: int = 32
    rate: float = 4e-3
    warmup: int = 50
    held_out: int = 256
    precision: str = "float32"
    mark: str = ""

    @property
    def title(self) -> str:
        """The name of the model in tables."""
        return TITLES[self.model] + (", augmented" if self.augment else "") + (f", {self.mark}" if self.mark else "")

    @property
    def folder(self) -> str:
        """The name of the run's folder."""
        kind = ("-augmented" if self.augment else "") + (f"-{self.mark}" if self.mark else "")
        return f"{self.model}{kind}-w{self.width}-l{self.layers}-d{self.structures}-s{self.seed}"

    def network(self) -> nn.Module:
        """A new network, from the seed."""
        torch.manual_seed(self.seed)
        return NETWORKS[self.model](self.width, self.layers)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this run: all but its length, on which no step depends."""
        return {key: value for key, value in asdict(self).items() if key != "steps"}

    def evaluated(self) -> list[int]:
        """Steps after which the held-out loss is decomposed: none, powers of two from 32 on, and all."""
        return sorted({0, self.steps, *(2**k for k in range(5, 40) if 2**k <= self.steps)})
