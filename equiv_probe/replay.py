r"""Replay: the user's own step, run again with other predictions in the place of the network's.

The step ``ℓ`` is a function of the network ``f``, which it may call any number of times. It is run with ``h_g``, with
the mean ``m̄`` over the plan, and with the means ``m̄₋r`` that leave out a replicate, each as a *network*: whatever the
step asks, it is answered with that network's value at what is asked then. So a call that depends on an earlier,
substituted answer (self-conditioning) is evaluated anew, one that does not is looked up. The scalars that come back are
``ℓ(h_{ri})``, ``ℓ(m̄)`` and ``ℓ(m̄₋r)``, which :func:`equiv_probe.jackknife.jackknife` decomposes.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.capture import Call, read_outputs, wide, write_outputs
from equiv_probe.errors import EquivProbeError
from equiv_probe.isolation import RandomState, isolated, patched_forward
from equiv_probe.jackknife import Jackknife, jackknife
from equiv_probe.schema import named
from equiv_probe.twirl import in_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from equiv_probe.live_orbit import LiveOrbit
    from equiv_probe.rotations import RotationPlan

Operator = tuple[tuple[int, int], ...]
"""Which rotations ``(r, i)`` of the plan the network's answer is averaged over."""


@dataclass
class Recorded:
    """One call of the user's own run: what went in, what came out, and the random state around it.

    Attributes:
        call: what went in.
        before: the random state before the call.
        after: and after it.
        raw: the answer; a copy, where the network answers with the dict it was given.
        own: which of the call's dicts the network answered with, if so.
        left: what the call's dicts held after it.
    """

    call: Call
    before: RandomState
    after: RandomState | None = None
    raw: Any = None
    own: int | None = None
    left: tuple[dict[str, Any], ...] = ()

    def answered(self, raw: Any) -> None:
        """Keep the answer, and what the caller's dicts hold now."""
        self.after = RandomState.now()
        self.left = tuple(dict(given) for given, _ in self.call.dicts)
        self.own = next((k for k, (given, _) in enumerate(self.call.dicts) if given is raw), None)
        self.raw = raw if self.own is None else self.left[self.own]


@dataclass(frozen=True)
class Replay:
    """What came of a step: its own result, untouched, and each scalar of it, decomposed.

    Attributes:
        result: what the user's own run returned.
        scalars: the jackknife of each scalar by name; of a step that returns one number, ``"loss"``.
        calls: how often the step called the network.
        evaluations: how many turned batches the network was evaluated on.
        precision: by scalar, the spacing of numbers in its type, relative to one.
    """

    result: Any
    scalars: Mapping[str, Jackknife]
    calls: int
    evaluations: int
    precision: Mapping[str, float]

    @property
    def first(self) -> Jackknife:
        """The jackknife of the first scalar."""
        return next(iter(self.scalars.values()))

    @property
    def total(self) -> float:
        """``L_total`` of the first scalar."""
        return float(self.first.total)

    @property
    def mean(self) -> float:
        """``L_mean`` of the first scalar."""
        return float(self.first.mean)

    @property
    def equiv(self) -> float:
        """``L_equiv`` of the first scalar."""
        return float(self.first.equiv)

    @property
    def equiv_stderr(self) -> float:
        """Its standard error over replicates."""
        return float(self.first.stderr(self.first.pseudo_equiv))

    @property
    def resolution(self) -> float:
        """What rounding of the returned numbers alone may make of ``L_equiv`` of the first scalar."""
        return 2 * len(self.first.sizes) * self.precision[next(iter(self.scalars))] * abs(self.total)

    @property
    def share(self) -> float:
        """``L_equiv / L_total`` of the first scalar."""
        return self.equiv / self.total


def replay_step(
    step: Callable[[], Any],
    recorded: list[Recorded],
    result: Any,
    *,
    module: nn.Module,
    live: LiveOrbit,
    plan: RotationPlan,
    rotations: Tensor,
    before: RandomState,
    protect: tuple[nn.Module, ...] = (),
) -> Replay:
    """Decompose the scalars of a step that was just run and recorded.

    Args:
        step: the user's closure.
        recorded: the network's calls in its own run.
        result: what that run returned.
        module: whose ``forward`` is replaced.
        live: how to evaluate it at turned inputs.
        plan: of R ≥ 2 replicates.
        rotations: ``(R, n, 3, 3)``, or ``(R, n, U, 3, 3)`` where every call sees the same structures.
        before: the random state before the user's own run.
        protect: other modules that the step touches.
    """
    weights, count = plan.weights, len(rotations)
    every = [(r, i) for r in range(count) for i in range(len(weights))]
    scalars: dict[Operator, dict[str, Tensor]] = {}
    player = Player(module, live, recorded, rotations, weights)
    with isolated(module, live.network, *protect, gradients=True), _own_dicts(recorded):

        def losses(operator: Operator) -> dict[str, Tensor]:
            if operator not in scalars:
                before.restore()
                with player.answering(operator):
                    scalars[operator] = scalars_of(step())
            return scalars[operator]

        each = [[losses(((r, i),)) for i in range(len(weights))] for r in range(count)]
        of_mean = losses(tuple(every))
        left_out = [losses(tuple(g for g in every if g[0] != r)) for r in range(count)] if plan.is_random else []
    found = {}
    for name in scalars_of(result):
        table = torch.stack([torch.stack([value[name] for value in row]) for row in each])
        mean_losses = torch.einsum("n,rn->r", weights.to(table), table)
        if plan.is_random:
            rest = torch.stack([value[name] for value in left_out])
            found[name] = jackknife(mean_losses, of_mean[name], rest, torch.ones_like(mean_losses))
        else:
            none = mean_losses[:0]
            found[name] = Jackknife(mean_losses.mean(0), of_mean[name], none, none, none)
    precision = {name: _precision(result, name) for name in found}
    return Replay(result, found, len(recorded), player.evaluations, precision)


@contextmanager
def _own_dicts(recorded: list[Recorded]) -> Iterator[None]:
    """The caller's dicts, into which the network may write, in the end as they were after the user's own run."""
    after = [(given, dict(given)) for one in recorded for given, _ in one.call.dicts]
    try:
        yield
    finally:
        for given, contents in after:
            refill(given, contents)


def refill(given: dict[str, Any], contents: Mapping[str, Any]) -> None:
    """Give a dict other contents, in place."""
    given.clear()
    given.update(contents)


class Player:
    """Answers the step's calls in the network's place."""

    def __init__(
        self, module: nn.Module, live: LiveOrbit, recorded: list[Recorded], rotations: Tensor, weights: Tensor
    ) -> None:
        self.module, self.live, self.recorded = module, live, recorded
        self.rotations, self.weights = rotations, weights
        self.evaluations = 0
        self._known: list[dict[tuple[int, int], dict[str, Tensor]]] = [{} for _ in recorded]
        self._operator: Operator = ()
        self._place = 0
        self._original = module.forward
        self._inside = False

    def answering(self, operator: Operator) -> Any:
        """A context in which the network is this average of ``h_g``."""
        self._operator, self._place = operator, 0
        seen: set[int] = set()
        for one in self.recorded:
            for given, held in one.call.dicts:
                if id(given) not in seen:
                    seen.add(id(given))
                    refill(given, held)
        return patched_forward(self.module, self.forward)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """In the place of the network's ``forward``; the network's own, where the orbit itself is evaluated."""
        if self._inside:
            return self._original(*args, **kwargs)
        self._inside = True
        try:
            return self._substitute(args, kwargs)
        finally:
            self._inside = False

    def _substitute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place, self._place = self._place, self._place + 1
        # More calls than in the user's own run: the step went another way, because of what it was answered.
        beyond = place >= len(self.recorded)
        one = self.recorded[-1 if beyond else place]
        call, known = Call.of(self.live.adapter, args, kwargs), {}
        attached = torch.is_grad_enabled() and bool(call.differentiated & one.call.differentiated & self._turning())
        if attached:
            # The step may differentiate its own input (forces as a gradient of the energy): the answer hangs on it.
            call = Call(*self.live.adapter.split(args, kwargs), call.differentiated, ())
        elif not beyond and _same(call.inputs, one.call.inputs):
            known = self._known[place]
        elif place == 0:
            raise EquivProbeError(
                "a step that asks the network something else when it is run again",
                "a step that can be repeated: same batch, all its noise from the global random state",
                "fetch the batch outside the step",
            )
        values = self._average(call, known, RandomState.now() if beyond else one.before, attached=attached)
        if one.after is not None and not beyond:
            one.after.restore()
        return self._answer([v for v in (*args, *kwargs.values()) if isinstance(v, dict)], one, values, attached)

    def _turning(self) -> set[str]:
        assert self.live.schema is not None
        return {name for name, rep in self.live.schema.inputs.items() if rep.event_shape}

    def _average(
        self, call: Call, known: dict[tuple[int, int], dict[str, Tensor]], start: RandomState, *, attached: bool
    ) -> dict[str, Tensor]:
        """``Σ w h_g / Σ w`` over the operator's rotations; a single one is given as it is."""
        missing = [key for key in self._operator if key not in known]
        structures = self.live.structures(call.inputs)
        # In train mode one by one, each with the same dropout mask and its own batch statistics.
        alone = attached or self.live.network.training
        together = 1 if alone else self.live.copies_at_once(structures, call.inputs)

        def evaluate(a: int, b: int) -> dict[str, Tensor]:
            start.restore()
            rotations = torch.stack([self.rotations[key] for key in missing[a:b]])
            return (self.live.attached if attached else self.live.pulled_back)(call, structures, rotations)

        done = 0
        for values in in_chunks(evaluate, len(missing), together):
            for k in range(len(next(iter(values.values())))):
                known[missing[done]] = {name: value[k] for name, value in values.items()}
                done += 1
        self.evaluations += done
        if len(self._operator) == 1:
            return known[self._operator[0]]
        scale = torch.stack([self.weights[i] for _, i in self._operator])
        averaged = {}
        for name, like in known[self._operator[0]].items():
            stacked = wide(torch.stack([known[key][name] for key in self._operator]))
            averaged[name] = torch.einsum("k,k...->...", (scale / scale.sum()).to(stacked), stacked).to(like.dtype)
        return averaged

    def _answer(self, own: list[dict[str, Any]], one: Recorded, values: dict[str, Tensor], attached: bool) -> Any:
        """The answer in the network's own form; also in the caller's dicts, if the network writes there."""
        schema = self.live.schema
        assert schema is not None
        if not attached and torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            # Leaves that require a gradient, so that a step which goes backward can do so.
            given = read_outputs(one.raw, schema)
            values = {n: v.detach().requires_grad_(given[n].requires_grad) for n, v in values.items()}
        for mine, left in zip(own, one.left, strict=False):
            mine.update({name: value for name, value in left.items() if name not in mine})
            mine.update({name: value for name, value in values.items() if name in left})
        if one.own is not None and one.own < len(own):
            return own[one.own]
        return write_outputs(one.raw, values, list(schema.outputs))


def scalars_of(result: Any) -> dict[str, Tensor]:
    """The numbers that a step returned, by name, detached and in float64; one alone is ``"loss"``.

    Raises:
        EquivProbeError: there is none.
    """
    several = isinstance(result, (Mapping, tuple, list))
    found = {}
    for name, value in (named(result) if several else {"loss": result}).items():
        if isinstance(value, torch.Tensor) and value.numel() == 1 and value.dtype != torch.bool:
            found[name] = wide(value.detach().reshape(()))
        elif isinstance(value, (numbers.Real, np.generic)) and not isinstance(value, bool):
            found[name] = torch.tensor(float(value), dtype=torch.float64)
    if not found:
        raise EquivProbeError(
            f"a step that returned {type(result).__name__} without a number",
            "its loss, or a dict of losses",
            "return loss",
        )
    return found


def _precision(result: Any, name: str) -> float:
    value = result
    if isinstance(result, (Mapping, tuple, list)):
        value = named(result)[name]
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return float(torch.finfo(value.dtype if floating else torch.float64).eps)


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two calls ask the same, to the last bit."""
    return a.keys() == b.keys() and all(
        torch.equal(value, b[name]) if isinstance(value, torch.Tensor) and isinstance(b[name], torch.Tensor) else True
        for name, value in a.items()
    )


def require_untrained(before: list[int], after: list[int]) -> None:
    """Raise EquivProbeError if a step wrote to the weights: run again, it would train again."""
    if before != after:
        raise EquivProbeError(
            "a step that changes the model's weights",
            "a step that computes the loss and leaves optimizer.step() outside",
            "probe.step(lambda: loss_fn(model(x), y))",
        )
