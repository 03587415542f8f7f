"""Fixed data under fixed rotations, from which a loss is summed: one batch, or a part of its structures."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.losses import PointwiseLoss
from equiv_probe.estimation.measurement import measure
from equiv_probe.landscape.differentiable_orbit import by_replicate, orbit_of, share_of
from equiv_probe.live.isolation import isolated
from equiv_probe.orbit.chunking import in_chunks
from equiv_probe.probe.per_structure import differentiating
from equiv_probe.rotations.drawing import draw
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor, nn

    from equiv_probe.estimation.orbit import Orbit
    from equiv_probe.landscape.differentiable_orbit import Found, Objectives
    from equiv_probe.live.capture import Call
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.live.random_state import RandomState
    from equiv_probe.schema.structures import Structures


class Decomposed(NamedTuple):
    """``L_total``, ``L_mean`` and ``L_equiv``, or sums of theirs, as 0-d tensors."""

    total: Tensor
    mean: Tensor
    equiv: Tensor


class Part(Protocol):
    """Some structures with the rotations they are rotated by."""

    weights: Mapping[str, Tensor]
    """By loss, of each structure in it, ``(count,)``."""
    factors: Mapping[str, float]
    """By loss, its coefficient in the sum."""

    @property
    def count(self) -> int:
        """How many structures can be evaluated one by one."""
        ...

    @property
    def replicates(self) -> int:
        """R, of the plan."""
        ...

    def sums(self, start: int, stop: int, replicates: Sequence[int]) -> dict[str, Decomposed]:
        """By loss, the weighted sums over structures from ``start`` up to ``stop``, from some of the replicates."""
        ...

    def redrawn(self, generator: torch.Generator) -> Self:
        """The same structures with other rotations of the same plan."""
        ...


_TWO = RotationPlan("haar", replicates=2)


class BatchPart:
    """One batch under rotations ``(R, n, 3, 3)`` for all structures alike, or ``(R, n, U, 3, 3)``.

    What the network draws is the same each time: it is evaluated in the random ``state``. ``modules`` are protected.
    """

    def __init__(
        self,
        live: LiveOrbit,
        call: Call,
        rotations: Tensor,
        plan: RotationPlan,
        *,
        objectives: Objectives,
        modules: Sequence[nn.Module],
        state: RandomState,
    ) -> None:
        self.live, self.call, self.rotations, self.plan = live, call, rotations, plan
        self._objectives, self._modules, self._state = objectives, tuple(modules), state
        self.structures = live.structures(call.inputs)
        self.weights: Mapping[str, Tensor]
        self.factors: Mapping[str, float]
        self.weights, self.factors = self._weights()

    @property
    def count(self) -> int:
        """See :class:`Part`."""
        return len(next(iter(self.weights.values())))

    @property
    def replicates(self) -> int:
        """See :class:`Part`."""
        return len(self.rotations)

    def sums(self, start: int, stop: int, replicates: Sequence[int]) -> dict[str, Decomposed]:
        """See :class:`Part`."""
        return self.sums_of(self.outputs(start, stop, replicates), start, stop, replicates)

    def redrawn(self, generator: torch.Generator) -> Self:
        """See :class:`Part`."""
        found, own = copy.copy(self), self.rotations.ndim == 5
        found.rotations = draw(self.plan, generator, self.rotations.shape[2] if own else None).to(self.rotations)
        return found

    def outputs(self, start: int, stop: int, replicates: Sequence[int]) -> dict[str, Tensor]:
        """Outputs for some structures by name, rotated back, float64, ``(R, n, *S)``."""
        which = self._which(start, stop)
        return self._values(which, self._rotations(which, replicates))

    def sums_of(
        self, outputs: Mapping[str, Tensor], start: int, stop: int, replicates: Sequence[int]
    ) -> dict[str, Decomposed]:
        """What :meth:`sums` gives when these are the network's :meth:`outputs`."""
        which, sums = self._which(start, stop), {}
        orbit = orbit_of(outputs, self.live.known_schema, self.plan, self._rotations(which, replicates))
        for name, objective in self._losses(orbit, which)[0].items():
            measured = measure(orbit, objective, live=True)
            weight = self.weights[name][start:stop]
            if self.count == 1:  # of a batch that is not split; they add up to that of the batch
                weight = measured.weight * (self.weights[name].sum() / measured.weight.sum())
            equiv = (weight * measured.estimate.equiv).sum()
            total = (weight * measured.estimate.total).sum()
            if not objective.labelled:
                total = equiv * torch.nan  # and its gradient, and that of L_mean
            if torch.is_grad_enabled() and not equiv.requires_grad:
                raise EquivProbeError(
                    f"a loss of {name!r} that does not hang on any parameter",
                    "outputs with the graph of the weights",
                    "model.train(), or the network's own flag, where forces are derivatives that keep their graph only "
                    "in training; parameters that require a gradient",
                )
            sums[name] = Decomposed(total, total - equiv, equiv)
        return sums

    def _which(self, start: int, stop: int) -> slice | None:
        return None if start == 0 and stop == self.count else slice(start, stop)

    def _rotations(self, which: slice | None, replicates: Sequence[int]) -> Tensor:
        chosen = self.rotations[list(replicates)]
        return chosen if which is None or chosen.ndim == 4 else chosen[:, :, which]

    def _losses(self, orbit: Orbit, which: slice | None) -> Found:
        whole = self.structures.count
        return self._objectives(orbit, *self._of(which), lambda value: share_of(value, whole, which))

    def _values(self, which: slice | None, rotations: Tensor) -> dict[str, Tensor]:
        """Outputs at rotated copies, with their graph where gradients are enabled."""
        call, structures = self._of(which)
        flat, live, graph = rotations.flatten(0, 1), self.live, torch.is_grad_enabled()
        chunk = live.copies_at_once(structures, call.inputs)

        def evaluate(a: int, b: int) -> dict[str, Tensor]:
            self._state.restore()
            return (live.attached if graph else live.rotated_back)(call, structures, flat[a:b])

        with isolated(*self._modules):
            if graph:
                with differentiating(self._modules):
                    rows = [evaluate(a, min(a + chunk, len(flat))) for a in range(0, len(flat), chunk)]
            else:
                rows = list(in_chunks(evaluate, len(flat), chunk))
        return by_replicate(rows, live.known_schema, rotations)

    def _of(self, which: slice | None) -> tuple[Call, Structures]:
        """The call of some of the structures, its tensors fresh leaves where the user's required a gradient."""
        call, structures = self.call, self.structures
        inputs = {name: share_of(value, structures.count, which) for name, value in call.inputs.items()}
        if which is not None:
            center, mask = structures.center, structures.mask
            structures = replace(
                structures,
                count=which.stop - which.start,
                center=center[which] if center is not None and center.ndim == 2 else center,
                mask=None if mask is None else mask[which],
            )
        for name in call.differentiated:
            inputs[name] = inputs[name].detach().clone().requires_grad_(torch.is_grad_enabled())
        return replace(call, inputs=inputs), structures

    def _weights(self) -> tuple[dict[str, Tensor], Mapping[str, float]]:
        """Weights of the structures and coefficients of the losses, from one evaluation of two copies."""
        count, index, weights = self.structures.count, self.structures.index, {}
        with torch.no_grad():  # two: here it is found out whether copies can be stacked
            two = self.rotations.flatten(0, 1)[:2, None]
            orbit = orbit_of(self._values(None, two), self.live.known_schema, _TWO, two)
            found, factors = self._losses(orbit, None)
            for name, objective in found.items():
                _, weight = objective({n: orbit.identity[n] for n in objective.outputs}, 0)
                if len(weight) == 1 and not isinstance(objective.loss, PointwiseLoss):  # a number for all of them
                    weight = weight * (count if index is None else int(index.max()) + 1)
                weights[name] = weight
        splits = self.structures.layout == "leading" and all(len(w) == count for w in weights.values())
        return (weights if splits else {name: w.sum()[None] for name, w in weights.items()}), factors
