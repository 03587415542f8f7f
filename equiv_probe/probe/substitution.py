"""Answers in the network's place: one call of a step recorded, and answered again with averages of ``h_g``."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.capture import Call, all_outputs, read_outputs, wide, write_outputs
from equiv_probe.live.isolation import RandomState, patched_forward
from equiv_probe.orbit.chunking import in_chunks
from equiv_probe.representations.grids import filled_outside
from equiv_probe.representations.voxel_rotations import at_hand

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from equiv_probe.live.live_orbit import LiveOrbit

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
        self.after = RandomState.now(generator for generator, _ in self.before.own)
        self.left = tuple(dict(given) for given, _ in self.call.dicts)
        self.own = next((k for k, (given, _) in enumerate(self.call.dicts) if given is raw), None)
        self.raw = raw if self.own is None else self.left[self.own]


@contextmanager
def own_dicts(recorded: list[Recorded]) -> Iterator[None]:
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
        self,
        module: nn.Module,
        live: LiveOrbit,
        recorded: list[Recorded],
        rotations: Tensor,
        weights: Tensor,
        *,
        first: dict[str, Tensor] | None = None,
    ) -> None:
        self.module, self.live, self.recorded = module, live, recorded
        self.rotations, self.weights = rotations, weights
        self.evaluations = 0
        self.strayed: list[Tensor] = []
        """For each replay, whether the step asked something else than before, where that could not be read at once."""
        self.kept: dict[Operator, list[dict[str, Tensor]]] = {}
        """For each replay what its calls were answered, where :attr:`keeps` asks for it."""
        self.keeps = False
        self.leaves: list[dict[str, Tensor]] | None = None
        """What the calls of the present replay are answered, as leaves of the graph of its loss, if not None."""
        self.graph = False
        """Whether answers keep the graph of the network's weights, so that the loss can be differentiated by them."""
        self.separable = True
        """Whether the loss is a function of the answers alone, to the calls of the user's own run."""
        self._known: list[dict[tuple[int, int], dict[str, Tensor]]] = [{} for _ in recorded]
        if first is not None:  # what is known of the first call's first rotation
            self._known[0][0, 0] = first
        self._others: list[dict[str, Tensor]] = [{} for _ in recorded]
        self._operator: Operator = ()
        self._place = 0
        self._original = module.forward
        self._inside = False
        self._asked: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._answered: tuple[Any, dict[str, Any] | None] | None = None

    @contextmanager
    def answering(self, operator: Operator) -> Iterator[None]:
        """A context in which the network, with all hooks that its user put on it, is this average of ``h_g``."""
        self._operator, self._place = operator, 0
        seen: set[int] = set()
        for one in self.recorded:
            for given, held in one.call.dicts:
                if id(given) not in seen:
                    seen.add(id(given))
                    refill(given, held)
        first = self.module.register_forward_pre_hook(self._before_hooks, with_kwargs=True, prepend=True)
        last = self.module.register_forward_hook(self._after_hooks)
        try:
            with patched_forward(self.module, self.forward):
                yield
        finally:
            first.remove()
            last.remove()

    # ``h_g`` is evaluated with the user's hooks on: what they change of the input or the answer is in it already. They
    # run once more around the answer, and may look at it, but change nothing.
    def _before_hooks(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is self.module and not self._inside:
            self._asked = args, kwargs

    def _after_hooks(self, module: nn.Module, args: tuple[Any, ...], changed: Any) -> Any:
        del args
        if module is not self.module or self._inside or self._answered is None:
            return changed
        (answer, contents), self._answered = self._answered, None
        if contents is not None:
            refill(answer, contents)
        return answer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """In the place of the network's ``forward``; the network's own, where the orbit itself is evaluated."""
        if self._inside:
            return self._original(*args, **kwargs)
        (args, kwargs), self._asked = self._asked or (args, kwargs), None
        self._inside = True
        try:
            answer = self._substitute(args, kwargs)
        finally:
            self._inside = False
        self._answered = answer, dict(answer) if isinstance(answer, dict) else None
        return answer

    def _substitute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place, self._place = self._place, self._place + 1
        # More calls than in the user's own run: the step went another way, because of what it was answered.
        beyond = place >= len(self.recorded)
        one = self.recorded[-1 if beyond else place]
        call, known = self.live.keep(args, kwargs), {}
        by_input = torch.is_grad_enabled() and bool(call.differentiated & one.call.differentiated & self._turning())
        attached = by_input or (self.graph and torch.is_grad_enabled())
        if attached and (by_input or call.differentiated):
            # The step may differentiate its own input (forces as a gradient of the energy): the answer hangs on it.
            call = Call(*self.live.split(args, kwargs), call.differentiated, ())
        if by_input:
            pass
        elif not beyond and self._repeated(place, call.inputs, one.call.inputs):
            known = self._known[place]
        elif place == 0:
            raise EquivProbeError(
                "a step that asks the network something else when it is run again",
                "a step that can be repeated: same batch, all its noise from global random states or from generators "
                "that the step or its modules name",
                "fetch the batch outside the step",
            )
        own = read_outputs(one.raw, self.live.known_schema)  # outside of the ball of a grid, what the user's run had
        start = RandomState.now() if beyond else one.before
        values = self._average(call, known, start, own, attached=attached)
        others = self._others[place] if not beyond and known is self._known[place] else {}
        beside = self._beside(others, call, one, start)
        self.separable &= not (attached or beyond)
        if self.keeps and self.leaves is None and not attached:
            self.kept.setdefault(self._operator, []).append(values)
        if one.after is not None and not beyond:
            one.after.restore()
        return self._answer(self.live.dicts(args, kwargs), one, values, beside, attached)

    def _beside(self, known: dict[str, Tensor], call: Call, one: Recorded, start: RandomState) -> Mapping[str, Tensor]:
        """What the network answers beside what is measured, on a graph of ours: it may hang on the same weights.

        What it only left behind in the dict it was given (layers' features) is not counted among its answers.

        Args:
            known: what it answered to the same before, to be filled.
            call: what it is asked.
            one: that call in the user's own run.
            start: the random state before that.
        """
        assert self.live.schema is not None
        if not (self.graph and torch.is_grad_enabled()):
            return {}
        outputs = self.live.schema.outputs
        held = {} if one.own is None else one.call.dicts[one.own][1]
        given = {n: v for n, v in all_outputs(one.raw, list(outputs)).items() if n not in outputs}
        given = {n: v for n, v in given.items() if isinstance(v, torch.Tensor) and v is not held.get(n)}
        wanted = [n for n, v in given.items() if v.requires_grad]
        if wanted and not known:
            start.restore()
            fresh = {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in call.inputs.items()}
            args, kwargs = call.rebuild(fresh)
            found = all_outputs(self.live.network(*args, **kwargs), list(outputs))
            known.update({n: found[n] for n in wanted})
        return known

    def _repeated(self, place: int, now: Mapping[str, Any], then: Mapping[str, Any]) -> bool:
        """Whether a call asks what it asked in the user's own run, to the last bit."""
        if now.keys() != then.keys():
            return False
        pairs: list[tuple[Tensor, Tensor]] = []
        for name, value in now.items():
            other = then[name]
            if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
                if value.shape != other.shape:
                    return False
                pairs.append((value, other))
        if all(at_hand(a) for a, _ in pairs):
            return not any(bool(_differ(a, b)) for a, b in pairs)
        # Reading it would wait for the device. The first call depends on no answer: a step that can be repeated asks
        # the same, and one that cannot spoils its own result. Later calls are evaluated anew.
        if place == 0:
            self.strayed += [_differ(a, b) for a, b in pairs]
        return place == 0

    def _turning(self) -> set[str]:
        assert self.live.schema is not None
        return {name for name, rep in self.live.schema.inputs.items() if rep.event_shape}

    def _average(
        self,
        call: Call,
        known: dict[tuple[int, int], dict[str, Tensor]],
        start: RandomState,
        own: Mapping[str, Tensor],
        *,
        attached: bool,
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
                one = {name: value[k] for name, value in values.items()}
                known[missing[done]] = filled_outside(one, self.live.known_schema.outputs, own)
                done += 1
        self.evaluations += done
        if len(self._operator) == 1:
            return known[self._operator[0]]
        scale = torch.stack([self.weights[i] for _, i in self._operator])
        scale = scale / scale.sum()
        averaged = {}
        for name, like in known[self._operator[0]].items():
            stacked = wide(torch.stack([known[key][name] for key in self._operator]))
            averaged[name] = torch.einsum(
                "k,k...->...", (scale / scale.sum()).to(stacked, non_blocking=True), stacked
            ).to(like.dtype)
        return averaged

    def _answer(
        self,
        own: list[dict[str, Any]],
        one: Recorded,
        values: dict[str, Tensor],
        beside: Mapping[str, Tensor],
        attached: bool,
    ) -> Any:
        """The answer in the network's own form; also in the caller's dicts, if the network writes there."""
        schema = self.live.schema
        assert schema is not None
        if self.leaves is not None and not attached:
            values = {n: v.detach().requires_grad_(v.is_floating_point()) for n, v in values.items()}
            self.leaves.append({n: v for n, v in values.items() if v.requires_grad})
        elif not attached and torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            # Hanging on leaves that require a gradient, so that a step which goes backward can do so.
            given = read_outputs(one.raw, schema)
            values = {n: v.detach().requires_grad_(given[n].requires_grad) for n, v in values.items()}
        if not attached or self.graph:  # the step may write into its answer: not into what is kept, nor into a leaf
            values = {n: v.clone() for n, v in {**values, **beside}.items()}
        for mine, left, (_, held) in zip(own, one.left, one.call.dicts, strict=False):
            mine.update({name: self._apart(value) for name, value in left.items() if name not in mine})
            # What the network wrote; a label of the same name stays what it was.
            mine.update({n: v for n, v in values.items() if n in left and left[n] is not held.get(n)})
        if one.own is not None and one.own < len(own):
            return own[one.own]
        if self.graph:
            rest = all_outputs(one.raw, list(schema.outputs))
            values = {n: self._apart(v) for n, v in rest.items() if isinstance(v, torch.Tensor)} | values
        return write_outputs(one.raw, values, list(schema.outputs))

    def _apart(self, value: Any) -> Any:
        """What is not measured is as in the user's own run, whose graph is not ours to go through."""
        return value.detach() if self.graph and isinstance(value, torch.Tensor) else value


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """Whether two tensors of one shape differ anywhere, ``()``; NaN, where a label is missing, is what it was."""
    return ((a != b) & ~(a.isnan() & b.isnan())).any()
