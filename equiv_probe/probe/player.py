"""Other outputs in the network's place, while a step is run again."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.capture import Call, transforming
from equiv_probe.live.cutting import CannotCut
from equiv_probe.live.dependence import LARGE_NUDGE
from equiv_probe.live.hook import rotations_of_calls
from equiv_probe.live.isolation import patched_forward
from equiv_probe.live.outputs import all_outputs, read_outputs, write_outputs
from equiv_probe.live.random_state import RandomState
from equiv_probe.orbit.seen_rotation import nudge
from equiv_probe.probe.averages import Averages, beside
from equiv_probe.probe.operators import DISPLACED, FAR, OWN
from equiv_probe.probe.recorded import refill
from equiv_probe.representations.voxel_rotations import at_hand

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from equiv_probe.live.sub_batches import SubBatch
    from equiv_probe.probe.averages import Known
    from equiv_probe.probe.operators import Operator
    from equiv_probe.probe.recorded import Recorded, RecordedStep

SCALED = 1.25
"""Factor of displaced outputs."""
FAR_SCALED = 1e5
"""The same where they are displaced far: gradients by the input do not see what is added."""


class Player:
    """Puts out averages of ``h_g`` for the step's calls, in the network's place.

    Args:
        run: the step.
        rotations: ``(R, n, 3, 3)``, or ``(R, n, U, 3, 3)`` where every call sees the same structures.
        weights: of the plan, ``(n,)``.
        first: ``h_g`` of the first call's first rotation, where it is known.
        graph: whether outputs keep the graph of the network's weights, so that the loss can be differentiated by them.
        part: of the batch of the step's one call: other structures keep the network's own outputs.
    """

    def __init__(
        self,
        run: RecordedStep,
        rotations: Tensor,
        weights: Tensor,
        *,
        first: dict[str, Tensor] | None = None,
        graph: bool = False,
        part: SubBatch | None = None,
    ) -> None:
        self.run, self.graph, self.part = run, graph, part
        self.group: Tensor | None = None
        """Which of the structures of a part are replaced, None for all of them."""
        self.module, self.live, self.recorded = run.module, run.live, run.calls
        self.averages = Averages(run.live, rotations, weights)
        self.strayed: list[Tensor] = []
        """For each replay, whether the step asked something else than before, where that could not be read at once."""
        self.kept: dict[Operator, list[dict[str, Tensor]]] = {}
        """For each replay what its calls were given, where :attr:`keeps` asks for it."""
        self.keeps = False
        self.leaves: list[dict[str, Tensor]] | None = None
        """What the calls of the present replay are given, as leaves of the graph of its loss, if not None."""
        self.shifts: Sequence[Mapping[str, Tensor]] = ()
        """By which these are moved, for each call."""
        self.rotated = False
        """Whether the ordinary run cannot be repeated: an augmentation rotated an input that is differentiated."""
        self.separable = True
        """Whether the loss is a function of the outputs alone, for the calls of the user's own run."""
        self._known: list[Known] = [{} for _ in run.calls]
        if first is not None:
            self._known[0][0, 0] = first
        self._others: list[dict[str, Tensor]] = [{} for _ in run.calls]
        self._operator: Operator = ()
        self._further: int | None = None
        self._unrotated = False
        self._place = 0
        self._original = run.module.forward
        self._inside = False
        self._asked: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._put_out: tuple[Any, dict[str, Any] | None] | None = None

    @contextmanager
    def standing_in(self, operator: Operator) -> Iterator[None]:
        """A context in which the network, with all hooks that its user put on it, is this average of ``h_g``."""
        self._operator, self._place = operator, 0
        # Decided here: a step that is compiled compares no numbers in the forward below, which would be symbols there.
        self._further = operator[0][1] if operator in (*DISPLACED, FAR) else None
        self._unrotated = operator == OWN or self._further is not None
        seen: set[int] = set()
        for one in self.recorded:
            for given, held in one.call.dicts:
                if id(given) not in seen:
                    seen.add(id(given))
                    refill(given, held)
        self.run.rewind()
        first = self.module.register_forward_pre_hook(self._before_hooks, with_kwargs=True, prepend=True)
        last = self.module.register_forward_hook(self._after_hooks)
        try:
            with patched_forward(self.module, self.forward):
                yield
        finally:
            first.remove()
            last.remove()

    # ``h_g`` is evaluated with the user's hooks on: what they change of the input or the output is in it already. They
    # run once more around the output, and may look at it, but change nothing.
    def _before_hooks(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is self.module and not self._inside:
            self._asked = args, kwargs

    def _after_hooks(self, module: nn.Module, args: tuple[Any, ...], changed: Any) -> Any:
        del args
        if module is not self.module or self._inside or self._put_out is None:
            return changed
        (output, contents), self._put_out = self._put_out, None
        if contents is not None:
            refill(output, contents)
        return output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """In the place of the network's ``forward``; the network's own, where the orbit itself is evaluated."""
        if self._inside:
            return self._original(*args, **kwargs)
        (args, kwargs), self._asked = self._asked or (args, kwargs), None
        self._inside = True
        try:
            output = self._substitute(args, kwargs)
        finally:
            self._inside = False
        self._put_out = output, dict(output) if isinstance(output, dict) else None
        return output

    def _substitute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place, self._place = self._place, self._place + 1
        # More calls than in the user's own run: the step went another way, because of what it was given.
        beyond = place >= len(self.recorded)
        one = self.recorded[-1 if beyond else place]
        call = self.live.keep(args, kwargs)
        again = call.differentiated & one.call.differentiated
        forward = transforming()  # then what a call is moved along counts, whether or not it rotates
        by_input = bool(again) if forward else torch.is_grad_enabled() and bool(again & self._rotating())
        attached = by_input or (self.graph and torch.is_grad_enabled())
        if attached and (by_input or call.differentiated):
            # The step may differentiate its own input (forces as a gradient of the energy): the output hangs on it.
            call = Call(*self.live.split(args, kwargs), call.differentiated, ())
        known = {} if by_input or beyond else self._evaluated(place, call)
        own = read_outputs(one.raw, self.live.known_schema)  # outside of the ball of a grid, what the user's run had
        start = RandomState.now() if beyond else one.before
        apart = not (attached or beyond)
        if self._unrotated and by_input:
            return self._anew(one, start, args, kwargs)
        if self._unrotated:
            values = self._displaced(self._own(one, place))
            return self._written(self.live.dicts(args, kwargs), one, values, {}, attached=False)
        if self.part is not None:
            values = self._of_part(self.part, one, known, start, apart=apart)
            return self._written(self.live.dicts(args, kwargs), one, values, {}, attached=False)
        values = self.averages.of(self._operator, call, known, start, own, attached=attached)
        others = self._others[place] if not beyond and known is self._known[place] else {}
        if self.graph and torch.is_grad_enabled():
            beside(self.live, others, call, one, start)
        self.separable &= apart
        if self.keeps and self.leaves is None and not attached:
            self.kept.setdefault(self._operator, []).append(values)
        if one.after is not None and not beyond:
            one.after.restore()
        return self._written(self.live.dicts(args, kwargs), one, values, others, attached)

    def _evaluated(self, place: int, call: Call) -> Known:
        """What was evaluated for a call before, to be added to."""
        if self._repeated(place, call.inputs, self.recorded[place].call.inputs):
            return self._known[place]
        if place == 0:
            raise EquivProbeError(
                "a step that asks the network something else when it is run again",
                "a step that can be repeated: same batch, all its noise from global random states or from generators "
                "that the step or its modules name",
                "fetch the batch outside the step",
            )
        return {}

    def _anew(self, one: Recorded, start: RandomState, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The network's own output, which has to hang on this very input; displaced where that is asked for."""
        self.rotated |= bool(rotations_of_calls(self.module, self.live.network))  # by hooks that do not rotate now
        start.restore()
        raw = self.live.network(*args, **kwargs)
        if self._further is None:
            return raw
        values = self._displaced(read_outputs(raw, self.live.known_schema))
        return self._written(self.live.dicts(args, kwargs), one, values, {}, attached=True)

    def _displaced(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return values if self._further is None else displaced(values, self._further)

    def _of_part(
        self, part: SubBatch, one: Recorded, known: Known, start: RandomState, *, apart: bool
    ) -> dict[str, Tensor]:
        """The outputs of the ordinary run, with averages of ``h_g`` for some structures."""
        if not apart or one.after is None:
            raise CannotCut
        own = one.known(self.live.known_schema)
        values = self.averages.of(self._operator, part.call, known, start, part.of(own), attached=False)
        one.after.restore()
        return part.put_back(values, own, self.group)

    def _own(self, one: Recorded, place: int) -> dict[str, Tensor]:
        """What the network put out in the ordinary run; the random state goes on as it did there."""
        if one.after is not None and place < len(self.recorded):
            one.after.restore()
        return one.known(self.live.known_schema)

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
        # Reading it would wait for the device. The first call depends on no output: a step that can be repeated asks
        # the same, and one that cannot spoils its own result. Later calls are evaluated anew.
        if place == 0:
            self.strayed += [_differ(a, b) for a, b in pairs]
        return place == 0

    def _rotating(self) -> set[str]:
        return {name for name, rep in self.live.known_schema.inputs.items() if rep.event_shape}

    def _written(
        self,
        own: list[dict[str, Any]],
        one: Recorded,
        values: dict[str, Tensor],
        others: Mapping[str, Tensor],
        attached: bool,
    ) -> Any:
        """The outputs in the network's own form; also in the caller's dicts, if the network writes there."""
        schema = self.live.known_schema
        one.attributes.put()
        values = self._as_leaves(one, values, attached)
        if not attached or self.graph:  # the step may write into its output: not into what is kept, nor into a leaf
            values = {n: v.clone() for n, v in {**values, **others}.items()}
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

    def _as_leaves(self, one: Recorded, values: dict[str, Tensor], attached: bool) -> dict[str, Tensor]:
        """Values as leaves of a graph of their own, where the step may go backward or its loss is differentiated."""
        if attached:
            return values
        if self.leaves is not None:
            moved = self.shifts[len(self.leaves)] if self.shifts else {}
            values = {n: v.detach() + moved[n] if n in moved else v.detach() for n, v in values.items()}
            values = {n: v.requires_grad_(v.is_floating_point()) for n, v in values.items()}
            self.leaves.append({n: v for n, v in values.items() if v.requires_grad})
        elif torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            given = read_outputs(one.raw, self.live.known_schema)
            values = {n: v.detach().requires_grad_(given[n].requires_grad) for n, v in values.items()}
        return values

    def _apart(self, value: Any) -> Any:
        """What is not measured is as in the user's own run, whose graph is not ours to go through."""
        return value.detach() if self.graph and isinstance(value, torch.Tensor) else value


def displaced(outputs: Mapping[str, Tensor], further: int) -> dict[str, Tensor]:
    """Outputs that differ by scale and by noise: gradients by the input, and what no scale changes, see it too."""
    generator, size = torch.Generator().manual_seed(further), LARGE_NUDGE * 3**further
    floating = {name: value for name, value in outputs.items() if value.is_floating_point() and value.numel()}
    scale = FAR_SCALED if further == FAR[0][1] else SCALED
    moved = {n: v * scale + nudge(v.detach(), generator, size).to(v) for n, v in floating.items()}
    return {**outputs, **moved}


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """Whether two tensors of one shape differ anywhere, ``()``; NaN, where a label is missing, is what it was."""
    return ((a != b) & ~(a.isnan() & b.isnan())).any()
