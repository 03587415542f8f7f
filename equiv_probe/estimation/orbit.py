"""The orbit of one input: rotated-back predictions, or the moments that were streamed from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from equiv_probe.estimation.controls import Control
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe.schema.schema import Schema

MAX_GROUPS = 64
"""Replicates beyond this are merged into groups of nearly equal size, so that moments take bounded memory."""


@dataclass
class Orbit:
    """Rotated-back predictions of one input over a plan's rotations, float64, by output.

    Shapes: R replicates of n rotations in G ≤ R groups, an output of shape ``S``.

    Attributes:
        schema: the representations used.
        plan: the plan.
        rotations: ``(R, n, 3, 3)``.
        weights: of the design, ``(n,)``.
        sizes: replicates in each group, ``(G,)``.
        identity: the unrotated prediction, ``(*S)``.
        means: of each group, ``(G, *S)``.
        squares: ``E (h − identity)²`` of each group, ``(G, *S)``.
        values: the orbit itself, ``(R, n, *S)``, or None if it was not kept.
        round_trips: predictions at ``g⁻¹(g x)``, which differs from x by rounding only, ``(F, *S)``.
        repeats: predictions at x again, ``(F', *S)``.
        half_differences: half the difference of two evaluations at each rotation, ``(R, n, *S)``, of a model that
            varies from call to call; ``values`` are then their means. Empty where each rotation was evaluated once.
        centers: of rotation, by output, broadcastable against it were it points; absent is the origin, or no fit.
        units: of the outputs, where known.
        evaluations: how many structures the model was evaluated on.
        seconds: how long that took.
        controls: what the predictions have passed, or not.
    """

    schema: Schema
    plan: RotationPlan
    rotations: Tensor
    weights: Tensor
    sizes: Tensor
    identity: dict[str, Tensor]
    means: dict[str, Tensor]
    squares: dict[str, Tensor]
    values: dict[str, Tensor] | None
    round_trips: dict[str, Tensor] = field(default_factory=dict)
    repeats: dict[str, Tensor] = field(default_factory=dict)
    half_differences: dict[str, Tensor] = field(default_factory=dict)
    centers: Mapping[str, Tensor] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    evaluations: int = 0
    seconds: float = 0.0
    controls: Sequence[Control] = ()

    @classmethod
    def from_values(
        cls,
        values: dict[str, Tensor],
        identity: dict[str, Tensor],
        schema: Schema,
        plan: RotationPlan,
        rotations: Tensor,
        **rest: Any,
    ) -> Orbit:
        """An orbit from rotated-back predictions ``(R, n, *S)`` that an adapter evaluated itself."""
        moments = Moments(identity, plan.weights, len(rotations))
        moments.add({name: v.reshape(-1, *v.shape[2:]) for name, v in values.items()})
        return cls(schema, plan, rotations, plan.weights, *moments.result(), values=values, **rest)

    def in_groups(self, per_replicate: Tensor) -> Tensor:
        """Average ``(R, ...)`` within the groups, ``(G, ...)``."""
        if len(self.sizes) == len(per_replicate):
            return per_replicate
        parts = torch.split(per_replicate, [int(size) for size in self.sizes])
        return torch.stack([part.mean(0) for part in parts])

    def kept(self, name: str) -> Tensor:
        """The orbit of one output, ``(R, n, *S)``.

        Raises:
            EquivProbeError: it was not kept.
        """
        if self.values is None:
            raise EquivProbeError(
                "an orbit of which only moments were kept", "the orbit itself", "twirl(..., keep=True)"
            )
        return self.values[name]

    def only(self, name: str) -> Orbit:
        """The orbit of one output."""
        chosen: dict[str, Any] = {}
        for place in ("identity", "means", "squares", "values", "round_trips", "repeats", "half_differences"):
            tensors = getattr(self, place)
            chosen[place] = tensors and {key: value for key, value in tensors.items() if key == name}
        return replace(self, **chosen)

    def unit(self, name: str) -> str:
        """Unit of an output, empty where it is not known."""
        return self.units.get(name, "")

    def of_the_noise(self) -> Orbit | None:
        """The orbit of half the differences between two calls, about zero; None where there was one call only."""
        if not self.half_differences:
            return None
        nothing = {name: values.new_zeros(values.shape[2:]) for name, values in self.half_differences.items()}
        return Orbit.from_values(self.half_differences, nothing, self.schema, self.plan, self.rotations)

    def require_finite(self, name: str) -> None:
        """Raise EquivProbeError if any prediction of this output is NaN or infinite."""
        for where, tensor in (("at the unrotated input", self.identity[name]), ("over the orbit", self.squares[name])):
            if not bool(tensor.isfinite().all()):
                raise EquivProbeError(f"non-finite predictions of {name!r} {where}", "finite values", "check the input")


class Moments:
    """Streaming group means and second moments about the unrotated prediction.

    Args:
        identity: the unrotated prediction by output, ``(*S)``.
        weights: of the design, ``(n,)``.
        replicates: R.
    """

    def __init__(self, identity: Mapping[str, Tensor], weights: Tensor, replicates: int) -> None:
        self.identity = dict(identity)
        self._n = len(weights)
        groups = min(replicates, MAX_GROUPS)
        # Group of each replicate: consecutive, sizes that differ by at most one. Where the predictions are, so that
        # adding to them waits for no copy.
        place = next((value.device for value in self.identity.values()), weights.device)
        group = torch.arange(replicates) * groups // replicates
        sizes = torch.bincount(group, minlength=groups).to(weights.dtype)
        self._group, self._sizes, self.weights = (t.to(place, non_blocking=True) for t in (group, sizes, weights))
        self._seen = 0
        self._first = {name: _zeros(value, groups) for name, value in self.identity.items()}
        self._second = {name: _zeros(value, groups) for name, value in self.identity.items()}

    def add(self, chunk: Mapping[str, Tensor]) -> None:
        """Take in the next rotated-back predictions, ``(C, *S)`` each, in the plan's order."""
        count = len(next(iter(chunk.values())))
        index = torch.arange(self._seen, self._seen + count, device=self._group.device)
        self._seen += count
        group = self._group[index // self._n]
        weight = self.weights[index % self._n] / self._sizes[group]
        for name, values in chunk.items():
            delta = values - self.identity[name]
            scale = weight.to(delta).reshape(-1, *(1,) * (delta.ndim - 1))
            self._first[name].index_add_(0, group.to(delta.device), scale * delta)
            self._second[name].index_add_(0, group.to(delta.device), scale * delta.square())

    def result(self) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Sizes, identity, means and squares, as :class:`Orbit` has them."""
        means = {name: self.identity[name] + first for name, first in self._first.items()}
        return self._sizes, self.identity, means, self._second


def _zeros(like: Tensor, groups: int) -> Tensor:
    return like.new_zeros(groups, *like.shape)
