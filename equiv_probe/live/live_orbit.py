"""The orbit of one captured call of a live module: rotated copies through the network, in as few passes as will do."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import is_dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.measurement import measure
from equiv_probe.estimation.objectives import label_free
from equiv_probe.estimation.orbit import Moments, Orbit
from equiv_probe.live.adapter_choice import adapter_for
from equiv_probe.live.adapters import CallAdapter, InputAdapter
from equiv_probe.live.capture import Call, all_outputs, cloned, read_outputs, wide
from equiv_probe.live.isolation import (
    RandomState,
    isolated,
    missing_output,
    needs_gradient,
    network,
    transforming,
)
from equiv_probe.orbit.chunking import in_chunks
from equiv_probe.orbit.memory_layout import laid_out_as
from equiv_probe.schema.inference import require_nothing_hidden
from equiv_probe.schema.repeated_structures import first_alike
from equiv_probe.schema.structures import Structures, primary, resolve_batch
from equiv_probe.schema.translation import settled, undecided

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

    from equiv_probe.estimation.measurement import Measurement
    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.live.adapters import Adapter, Part, Rebuild
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe.schema.schema import Named, Schema


CPU_NUMBERS = 3 * 2048
"""Coordinates in one pass on a CPU: more atoms at a time make a transformer slower again."""


_PLAIN = (CallAdapter, InputAdapter)
"""Adapters that leave it to the orbit to join the copies of dense batches."""


class LiveOrbit:
    """How to evaluate a module at rotated copies of its calls.

    Args:
        module: the module whose calls were captured, wrapped or not.
        schema: representations; None infers them from the first call.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        adapter: of a framework's batches.
        stack: whether a dense batch ``(B, N, 3)`` may become one of ``C·B`` structures. None finds out: two copies
            are evaluated together and one by one, once, and must agree.
        chunk: copies in one pass, at most; halved when memory runs out.
    """

    def __init__(
        self,
        module: nn.Module,
        schema: Schema | None = None,
        center: str | Tensor = "centroid",
        *,
        adapter: Adapter | None = None,
        stack: bool | None = None,
        chunk: int = 64,
    ) -> None:
        self.network = network(module)
        self._adapter = adapter
        self.schema, self.center, self.chunk = schema, center, chunk
        self._declared = schema
        self._seen: set[str] = set()
        self._stacks = stack
        self._differentiates = False
        self.start: RandomState | None = None
        """Random state in which copies that do not share a pass are evaluated each; None: as it comes."""
        self.on_answer: Callable[[Any], object] | None = None
        """Shown every answer of the network as it came, for whoever needs its container."""

    def reading(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Adapter:
        """What reads the calls; the first one shows it."""
        if self._adapter is None:
            self._adapter = adapter_for(self.network, args, kwargs)
        return self._adapter

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """Arguments of a call by name, and how to make fresh ones."""
        return self.reading(args, kwargs).split(args, kwargs)

    def keep(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Keep a call."""
        return Call.of(self.reading(args, kwargs), args, kwargs)

    def dicts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[dict[str, Any]]:
        """The dicts of a call into which the network may write."""
        return self.reading(args, kwargs).dicts(args, kwargs)

    @property
    def adapter(self) -> Adapter:
        """What reads the calls, from the first one on."""
        assert self._adapter is not None
        return self._adapter

    @property
    def known_schema(self) -> Schema:
        """The representations, after the first call."""
        assert self.schema is not None
        return self.schema

    def resolve(self, call: Call, raw: Any) -> Schema:
        """The schema, inferred from a call and its answer where it is not declared; announced once.

        Raises:
            EquivProbeError: it does not fit, or is ambiguous.
        """
        if self.schema is None or not self.knows(call.inputs):
            schema, declared = self.schema, self._declared
            if schema is None or declared is None or not (declared.inputs and declared.outputs):
                # Also for an input that earlier calls did not have: self-conditioning begins with nothing.
                schema = self.adapter.infer(call.inputs, all_outputs(raw) if is_dataclass(raw) else raw, schema)
                if not schema.outputs:
                    raise EquivProbeError(
                        f"an answer without tensors: {type(raw).__name__} of {sorted(all_outputs(raw))}",
                        "a tensor, or a tuple, dict or dataclass of tensors",
                        "probe a module inside that answers so, or wrap this one",
                    )
                schema = self._settled(call, schema)
                schema.announce()
            elif not self._seen:
                missing = sorted(set(schema.inputs) - set(call.inputs) - self._may_come(call, schema))
                if missing:
                    found = f"inputs {sorted(call.inputs)}"
                    raise EquivProbeError(found, f"the schema's inputs {missing}", "ep.Schema(inputs={...})")
                require_nothing_hidden(call.inputs, schema.inputs, {*schema.outputs, *schema.targets})
            self.schema = resolve_batch(schema, call.inputs)
            self._seen |= _tensor_names(call.inputs)
        return self.schema

    def _settled(self, call: Call, schema: Schema) -> Schema:
        """The schema, with outputs that move along with a structure as points: two passes, once, without a trace."""
        if not undecided(schema) or transforming() or (isinstance(self.center, str) and self.center == "origin"):
            return schema
        before, self.schema = self.schema, schema
        try:
            with isolated(self.network), torch.inference_mode(False):
                start = RandomState.now()

                def evaluate(inputs: Named) -> dict[str, Tensor]:
                    start.restore()
                    with torch.set_grad_enabled(self._differentiates):
                        return self._one(call, {name: cloned(value) for name, value in inputs.items()})

                try:
                    return settled(schema, call.inputs, evaluate)
                except Exception as error:
                    if self._differentiates or not (needs_gradient(error) or missing_output(error)):
                        return schema  # a network that refuses moved structures leaves the question open
                self._differentiates = True
                return settled(schema, call.inputs, evaluate)
        finally:
            self.schema = before

    def _may_come(self, call: Call, schema: Schema) -> set[str]:
        """Inputs that this call may leave out: optional ones, and earlier answers in a dict that is optional."""
        optional = self.adapter.optional
        inside = {name for name in schema.inputs if name.partition(".")[0] in optional}
        left_out = any(call.inputs.get(name) is None for name in optional)
        return {*optional, *inside, *(schema.outputs if left_out else ())}

    def knows(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a call with such inputs was resolved before."""
        return bool(self._seen) and _tensor_names(inputs) <= self._seen

    def structures(self, inputs: Named) -> Structures:
        """Which rotation belongs to what, for the inputs of one call."""
        assert self.schema is not None
        found = self.adapter.structures(inputs, self.schema, self.center)
        return Structures.of(inputs, self.schema, self.center) if found is None else found

    def repeats_rotated_alike(self, inputs: Named, rotations: Tensor) -> Tensor:
        """The same rotation for structures that are in a batch more than once; ``(R, n, U, 3, 3)``."""
        structures, name = self.structures(inputs), primary(self.known_schema, inputs)
        value = inputs[name]
        if structures.layout == "one" or not len(value) or value.device.type == "mps":
            return rotations
        index = structures.owner(value, name) if structures.layout == "index" else None
        if index is None and len(value) != structures.count:
            return rotations
        return rotations[:, :, first_alike(value, index, structures.count)]

    def measure(
        self,
        call: Call,
        raw: Any,
        plan: RotationPlan,
        rotations: Tensor,
        *,
        evaluate: Evaluate = label_free,
        known: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Measurement]:
        """Losses of every structure, by name; nothing waits for the device.

        Args:
            call: the captured call.
            raw: the user's own answer.
            plan: the plan that drew the rotations.
            rotations: ``(R, n, U, 3, 3)``.
            evaluate: what the orbit is measured against.
            known: pulled-back predictions of the first rotations, ``(C, *S)``, which need no evaluation.
        """
        schema, structures = self.resolve(call, raw), self.structures(call.inputs)
        about = {name: wide(value.detach()) for name, value in read_outputs(raw, schema).items()}
        objectives = evaluate(call.inputs, about, structures, schema)
        flat = rotations.flatten(0, 1)
        done = len(next(iter(known.values()))) if known else 0
        moments = Moments(about, plan.weights, len(rotations))
        kept: list[dict[str, Tensor]] = []
        chunks: Iterator[dict[str, Tensor]] = in_chunks(
            lambda a, b: self.pulled_back(call, structures, flat[done + a : done + b]),
            len(flat) - done,
            self.copies_at_once(structures, call.inputs),
        )
        for values in chain([dict(known)] if known else [], chunks):
            wider = {name: wide(value) for name, value in values.items()}
            moments.add(wider)
            if not objectives.squared:
                kept.append(wider)
        whole = None
        if kept:
            joined = {name: torch.cat([one[name] for one in kept]) for name in about}
            whole = {name: v.reshape(*rotations.shape[:2], *v.shape[1:]) for name, v in joined.items()}
        orbit = Orbit(schema, plan, flat, moments.weights, *moments.result(), values=whole)
        found = {name: measure(orbit, one, live=True) for name, one in objectives.parts.items()}
        return {**found, **objectives.total(found)}

    def pulled_back(self, call: Call, structures: Structures, rotations: Tensor) -> dict[str, Tensor]:
        """``h_g`` in the model's precision, detached, ``(C, *S)`` by output, for rotations ``(C, [U,] 3, 3)``."""
        try:
            return self._evaluate(call, structures, rotations)
        except Exception as error:
            if self._differentiates or not (needs_gradient(error) or missing_output(error)):
                raise
        self._differentiates = True
        return self._evaluate(call, structures, rotations)

    def attached(self, call: Call, structures: Structures, rotations: Tensor) -> dict[str, Tensor]:
        """``h_g``, ``(C, *S)`` by output, hanging on the call's own inputs, so that it can be differentiated by them.

        Copies of dense batches are stacked where that gives what they give one by one.
        """
        schema, count = self.known_schema, len(rotations)
        rotated = structures.rotate(call.inputs, schema, rotations)
        dense = count > 1 and structures.layout == "leading" and type(self.adapter) in _PLAIN
        dense = dense and not (self._stacks is None and transforming())  # under vmap two answers cannot be compared
        if dense and self._stacks is None:
            two = {name: v[:2] for name, v in rotated.items()}
            join = partial(self._dense, call, structures, two, attached=True)
            self._stacks = self._stacking_is_right(call, two, join, attached=True)
        if dense and self._stacks:
            outputs = self._dense(call, structures, rotated, attached=True)
        else:
            outputs = self._each(call, rotated, count, attached=True)
        return structures.rotate_back(outputs, schema, rotations)

    def _evaluate(self, call: Call, structures: Structures, rotations: Tensor) -> dict[str, Tensor]:
        schema = self.schema
        assert schema is not None
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(self._differentiates))
            rotated = structures.rotate(call.inputs, schema, rotations)
            together = self._together(call, structures, rotated) if len(rotations) > 1 else None
            outputs = self._each(call, rotated, len(rotations)) if together is None else together
            return structures.rotate_back(outputs, schema, rotations)

    def _one(self, call: Call, inputs: dict[str, Any], *, attached: bool = False) -> dict[str, Tensor]:
        """Raw outputs of one pass, detached unless they are to hang on the inputs."""
        assert self.schema is not None
        if self._differentiates and not attached:
            for name in call.differentiated:
                inputs[name].requires_grad_()
        args, kwargs = call.rebuild(inputs)
        outputs = read_outputs(self._answer(*args, **kwargs), self.schema)
        return outputs if attached else {name: v.detach() for name, v in outputs.items()}

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        """The network's raw answer."""
        raw = self.network(*args, **kwargs)
        if self.on_answer is not None:
            self.on_answer(raw)
        return raw

    def _each(
        self, call: Call, rotated: Mapping[str, Tensor], count: int, *, attached: bool = False
    ) -> dict[str, Tensor]:
        """Raw outputs of copies, one pass each, ``(C, *S)``."""
        each = []
        for k in range(count):
            if self.start is not None:
                self.start.restore()
            each.append(self._one(call, _copy(call, rotated, k, attached=attached), attached=attached))
        return {name: torch.stack([one[name] for one in each]) for name in each[0]}

    def _together(self, call: Call, structures: Structures, rotated: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Raw outputs of several copies from one pass, ``(C, *S)``; None where copies cannot be stacked."""
        if self._stacks is False or (self._stacks is None and transforming()):
            return None
        joined = self.adapter.stack(call.inputs, rotated)
        if joined is None and structures.layout != "leading":
            return None
        if self._stacks is None and (joined is None or self.adapter.unsure):
            two = {name: v[:2] for name, v in rotated.items()}
            join = self.adapter.stack(call.inputs, two) if joined is not None else None
            self._stacks = self._stacking_is_right(call, two, lambda: self._pass(call, structures, two, join))
            if not self._stacks:
                return None
        return self._pass(call, structures, rotated, joined)

    def _pass(
        self, call: Call, structures: Structures, rotated: Mapping[str, Tensor], joined: tuple[Named, Part] | None
    ) -> dict[str, Tensor]:
        """One pass over copies, as the adapter joined them or, of a dense batch, along its first axis."""
        return self._dense(call, structures, rotated) if joined is None else joined[1](self._one(call, joined[0]))

    def _dense(
        self, call: Call, structures: Structures, rotated: Mapping[str, Tensor], *, attached: bool = False
    ) -> dict[str, Tensor]:
        """One pass over copies of a dense batch, joined along its first axis."""
        size, count = structures.count, len(next(iter(rotated.values())))
        joined: dict[str, Any] = {}
        for name, value in call.inputs.items():
            if not (isinstance(value, torch.Tensor) and value.ndim and len(value) == size):
                joined[name] = value if attached else cloned(value)
            elif name in rotated:
                own = laid_out_as(rotated[name].flatten(0, 1), value)
                joined[name] = own if attached else own.detach().clone()
            else:
                joined[name] = value.repeat(count, *(1,) * (value.ndim - 1))
        outputs = self._one(call, joined, attached=attached)
        return {name: value.reshape(count, size, *value.shape[1:]) for name, value in outputs.items()}

    def _stacking_is_right(
        self,
        call: Call,
        rotated: Mapping[str, Tensor],
        together: Callable[[], dict[str, Tensor]],
        *,
        attached: bool = False,
    ) -> bool:
        """Whether two copies give together what they give one by one; waits for the device, once."""
        alone = self._each(call, rotated, 2, attached=attached)
        try:
            joined = together()
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False  # an answer that does not follow the first axis, or a model of fixed batch size
        return all(alone[name].shape == joined[name].shape and _close(alone[name], joined[name]) for name in alone)

    def copies_at_once(self, structures: Structures, inputs: Mapping[str, Any]) -> int:
        """Copies to try in one pass: as many as can be stacked; on a CPU no more than its cache is good for."""
        if type(self.adapter) in _PLAIN and (structures.layout != "leading" or self._stacks is False):
            return 1
        assert self.schema is not None
        given = [v for n, rep in self.schema.inputs.items() if rep.event_shape and (v := inputs.get(n)) is not None]
        on_cpu = given[0].device.type == "cpu"
        return max(1, min(self.chunk, CPU_NUMBERS // max(1, given[0].numel()))) if on_cpu else self.chunk


def _copy(call: Call, rotated: Mapping[str, Tensor], k: int, *, attached: bool = False) -> dict[str, Any]:
    """Fresh inputs of the k-th copy; attached, those that rotate hang on the call's, and the others are the call's."""
    own = {name: laid_out_as(value[k], call.inputs[name]) for name, value in rotated.items()}
    if attached:
        return {**call.inputs, **{name: value.clone() for name, value in own.items()}}
    return {name: cloned(own.get(name, value)) for name, value in call.inputs.items()}


def _tensor_names(inputs: Mapping[str, Any]) -> set[str]:
    return {name for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding in their precision, on the scale of the whole tensor."""
    if a.is_meta:
        return b.is_meta  # no numbers to compare
    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    a, b = a.detach(), b.detach()
    scale = float(a.abs().max()) if a.numel() else 0.0
    gap = float((a - b).abs().max()) if a.numel() else 0.0
    return math.isfinite(gap) and gap <= 100 * torch.finfo(a.dtype).eps * max(scale, torch.finfo(a.dtype).tiny)
