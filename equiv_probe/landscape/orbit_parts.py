"""Fixed data under fixed rotations, from which a loss is summed: one batch, or a part of its structures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import nn

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.losses import PointwiseLoss
from equiv_probe.estimation.measurement import measure
from equiv_probe.estimation.orbit import Orbit
from equiv_probe.landscape.orbit_objectives import share_of
from equiv_probe.live.capture import wide
from equiv_probe.live.isolation import RandomState, isolated
from equiv_probe.orbit.chunking import in_chunks
from equiv_probe.probe.per_structure import differentiating
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from equiv_probe.landscape.orbit_objectives import Found, Objectives
    from equiv_probe.live.capture import Call
    from equiv_probe.live.live_orbit import LiveOrbit
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


_TWO = RotationPlan("haar", replicates=2)


class BatchPart:
    """One batch.

    Args:
        live: how the network is evaluated at its rotated copies.
        call: the batch, as the network's call.
        rotations: ``(R, n, 3, 3)`` for all structures alike, or ``(R, n, U, 3, 3)``.
        plan: which drew them.
        objectives: the losses.
        modules: to protect.
        state: the random state in which the network is evaluated, so that what it draws is the same each time.
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

    def outputs(self, start: int, stop: int, replicates: Sequence[int]) -> dict[str, Tensor]:
        """Outputs for some structures by name, rotated back, float64, ``(R, n, *S)``."""
        return self._values(self._which(start, stop), self.rotations[list(replicates)])

    def sums_of(
        self, outputs: Mapping[str, Tensor], start: int, stop: int, replicates: Sequence[int]
    ) -> dict[str, Decomposed]:
        """What :meth:`sums` gives when these are the network's :meth:`outputs`."""
        rotations = self.rotations[list(replicates)]
        found, orbit = self._judged(dict(outputs), self._which(start, stop), rotations, self.plan)
        sums = {}
        for name, objective in found[0].items():
            measured = measure(orbit, objective, live=True)
            weight = self.weights[name][start:stop] if self.count > 1 else self._scaled(name, measured.weight)
            estimate = measured.estimate
            equiv = (weight * estimate.equiv).sum()
            total = (weight * estimate.total).sum()
            if not objective.labelled:
                total = equiv * torch.nan  # and its gradient, and that of L_mean
            self._require_graph(name, equiv)
            sums[name] = Decomposed(total, total - equiv, equiv)
        return sums

    def _scaled(self, name: str, weight: Tensor) -> Tensor:
        """Weights of what a loss gives for a batch that is not split, which add up to that of the batch."""
        return weight * (self.weights[name].sum() / weight.sum())

    def _require_graph(self, name: str, value: Tensor) -> None:
        if torch.is_grad_enabled() and not value.requires_grad:
            raise EquivProbeError(
                f"a loss of {name!r} that does not hang on any parameter",
                "outputs with the graph of the weights",
                "model.train(), or the network's own flag, where forces are derivatives that keep their graph only in "
                "training; parameters that require a gradient",
            )

    def _which(self, start: int, stop: int) -> slice | None:
        return None if start == 0 and stop == self.count else slice(start, stop)

    def _losses(self, which: slice | None, rotations: Tensor, plan: RotationPlan) -> tuple[Found, Orbit]:
        """The losses and the orbit, with its graph where gradients are enabled."""
        return self._judged(self._values(which, rotations), which, rotations, plan)

    def _values(self, which: slice | None, rotations: Tensor) -> dict[str, Tensor]:
        call, structures = self._of(which)
        if which is not None and rotations.ndim == 5:
            rotations = rotations[:, :, which]
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
        schema = live.known_schema
        values = {name: wide(torch.cat([row[name] for row in rows])) for name in schema.outputs}
        return {name: v.reshape(*rotations.shape[:2], *v.shape[1:]) for name, v in values.items()}

    def _judged(
        self, values: dict[str, Tensor], which: slice | None, rotations: Tensor, plan: RotationPlan
    ) -> tuple[Found, Orbit]:
        call, structures = self._of(which)
        if which is not None and rotations.ndim == 5:
            rotations = rotations[:, :, which]
        # What the moments are taken about: L_equiv does not depend on it, and drowns in no large number's rounding.
        about = {name: v[0, 0].detach() for name, v in values.items()}
        orbit = Orbit.from_values(values, about, self.live.known_schema, plan, rotations)
        whole = self.structures.count
        return self._objectives(orbit, call, structures, lambda value: share_of(value, whole, which)), orbit

    def _of(self, which: slice | None) -> tuple[Call, Structures]:
        """The call of some of the structures, its tensors fresh leaves where the user's required a gradient."""
        call, structures = self.call, self.structures
        inputs = dict(call.inputs)
        if which is not None:
            inputs = {name: share_of(value, structures.count, which) for name, value in inputs.items()}
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
        with torch.no_grad():  # two: here it is found out whether copies can be stacked
            two = self.rotations.flatten(0, 1)[:2, None]
            (found, factors), orbit = self._losses(None, two, _TWO)
            weights = {}
            for name, objective in found.items():
                _, weight = objective({n: orbit.identity[n] for n in objective.outputs}, 0)
                whole = not isinstance(objective.loss, PointwiseLoss)
                if len(weight) == 1 and whole:
                    weight = weight * self._number_of_structures()  # a number for all of them
                weights[name] = weight
        layout, count = self.structures.layout, self.structures.count
        parts = layout == "leading" and all(len(w) == count for w in weights.values())
        return (weights if parts else {name: w.sum()[None] for name, w in weights.items()}), factors

    def _number_of_structures(self) -> int:
        index = self.structures.index
        return self.structures.count if index is None else int(index.max()) + 1


def first_output(live: LiveOrbit, call: Call, modules: Sequence[nn.Module]) -> Any:
    """The network's raw output for a call, from which its schema is resolved."""
    with isolated(*modules), torch.enable_grad():
        inputs = {name: v.detach().clone() if isinstance(v, torch.Tensor) else v for name, v in call.inputs.items()}
        for name in call.differentiated:
            inputs[name].requires_grad_()
        args, kwargs = call.rebuild(inputs)
        raw = live.network(*args, **kwargs)
        live.resolve(call, raw)
    return raw


class Function(nn.Module):
    """A function as a module, which holds none of the modules that the function names."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Any) -> Any:
        """The function's output."""
        return self.function(inputs)
