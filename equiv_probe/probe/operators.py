"""The networks with which a step is run again, each an average over rotations; and what is made of its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.jackknife import Jackknife, jackknife, require_several

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from equiv_probe.rotations.plan import RotationPlan

Operator = tuple[tuple[int, int], ...]
"""Which rotations ``(r, i)`` of the plan the network's output is averaged over."""
BENT = 1e-4
"""Relative to the loss, what is more than rounding, half precision in the network's outputs included."""
OWN: Operator = ((-1, -1),)
"""No rotation: the outputs that the network had in the step's ordinary run."""
DISPLACED: tuple[Operator, ...] = (((-2, 0),), ((-2, 1),), ((-2, 2),))
"""No rotation: these, scaled and displaced, further each time, as no network that is in question puts them out."""
FAR: Operator = ((-2, 15),)
"""The same, displaced by a million times their spread: no loss that grows with an error stays as it was."""


@dataclass(frozen=True)
class Runs:
    """The networks with which a step is run again.

    Attributes:
        each: every rotation of every replicate, ``(R, n)``.
        mean: all of them.
        left_out: all but those of one replicate; none for a plan that is exact.
        weights: of the plan.
        population: how many rotations the plan's are drawn from without replacement; None for independent ones.
    """

    each: tuple[tuple[Operator, ...], ...]
    mean: Operator
    left_out: tuple[Operator, ...]
    weights: Tensor
    population: int | None

    @classmethod
    def of(cls, plan: RotationPlan, replicates: int) -> Runs:
        """Those of a plan.

        Raises:
            EquivProbeError: a single replicate of random rotations.
        """
        if plan.is_random:
            require_several(replicates)
        each = tuple(tuple(((r, i),) for i in range(len(plan.weights))) for r in range(replicates))
        every = tuple(g for row in each for (g,) in row)
        left_out = tuple(tuple(g for g in every if g[0] != r) for r in range(replicates)) if plan.is_random else ()
        return cls(each, every, left_out, plan.weights, plan.population)

    @property
    def all(self) -> list[Operator]:
        """Each once."""
        return list(dict.fromkeys((*(one for row in self.each for one in row), self.mean, *self.left_out)))

    def jackknife(self, values: Mapping[Operator, Tensor], strayed: Tensor | None) -> Jackknife:
        """Decompose what came back, ``(*U)`` for each network; NaN if the step could not be repeated."""
        table = torch.stack([torch.stack([values[one] for one in row]) for row in self.each])
        if strayed is not None:  # a step that could not be repeated has no decomposition
            table = torch.where(strayed, torch.nan, table)
        losses = torch.einsum("n,rn...->r...", self.weights.to(table, non_blocking=True), table)
        if not self.left_out:
            none = losses[:0]
            return Jackknife(losses.mean(0), values[self.mean], none, none, none)
        rest = torch.stack([values[one] for one in self.left_out])
        return jackknife(losses, values[self.mean], rest, losses.new_ones(len(losses)), self.population)

    def bent(self, values: Mapping[Operator, Tensor]) -> Tensor:
        """Whether the loss of the mean exceeds the mean of the losses by more than rounding, ``()``: it is not convex.

        By Jensen's inequality no convex function of the network's outputs does that, whatever the rotations.
        """
        table = torch.stack([torch.stack([values[one] for one in row]) for row in self.each])
        mean = torch.einsum("n,rn->", self.weights.to(table, non_blocking=True), table) / len(table)
        return values[self.mean] - mean > BENT * table.abs().mean()


def by_name(found: Mapping[Operator, Mapping[str, Tensor]], names: Iterable[str]) -> dict[str, dict[Operator, Tensor]]:
    """Each number of the runs with every network: ``found[operator][name]`` as ``[name][operator]``."""
    return {name: {operator: numbers[name] for operator, numbers in found.items()} for name in names}
