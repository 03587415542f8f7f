"""Rotated copies of a call through the network, in as few passes as will do."""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.live.adapters import CallAdapter, InputAdapter
from equiv_probe.live.capture import cloned, transforming
from equiv_probe.live.isolation import missing_output, needs_gradient
from equiv_probe.live.outputs import read_outputs
from equiv_probe.orbit.memory_layout import laid_out_as
from equiv_probe.orbit.rounding import perturbed, perturbed_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from equiv_probe.live.adapters import Part
    from equiv_probe.live.call_reader import CallReader
    from equiv_probe.live.capture import Call
    from equiv_probe.live.random_state import RandomState
    from equiv_probe.schema.schema import Named
    from equiv_probe.schema.structures import Structures

CPU_NUMBERS = 3 * 2048
"""Coordinates in one pass on a CPU: more atoms at a time make a transformer slower again."""

_PLAIN = (CallAdapter, InputAdapter)
"""Adapters that leave it to :class:`Copies` to join the copies of dense batches."""


class Copies:
    """Evaluates a network at rotated copies of a call.

    Args:
        reader: of its calls.
        stacks: whether a dense batch ``(B, N, 3)`` may become one of ``C·B`` structures. None finds out: two copies
            are evaluated together and one by one, once, and must agree.
        chunk: copies in one pass, at most.
    """

    def __init__(self, reader: CallReader, stacks: bool | None, chunk: int) -> None:
        self.reader, self.stacks, self.chunk = reader, stacks, chunk
        self._differentiates = False
        self.start: RandomState | None = None
        """Random state in which copies that do not share a pass are evaluated each; None: as it comes."""
        self.rounding: tuple[torch.Generator, float] | None = None
        """What draws the rounding of inputs and weights, and its spacing, for a floor; None leaves them as they are."""
        self.on_output: Callable[[Any], object] | None = None
        """Shown every output of the network as it came, for whoever needs its container."""

    def rotated_back(self, call: Call, structures: Structures, rotations: Tensor) -> dict[str, Tensor]:
        """``h_g`` in the model's precision, detached, ``(C, *S)`` by output, for rotations ``(C, [U,] 3, 3)``."""
        try:
            return self._evaluate(call, structures, rotations)
        except Exception as error:
            if self._differentiates or not (needs_gradient(error) or missing_output(error)):
                raise
        self._differentiates = True
        return self._evaluate(call, structures, rotations)

    def at(self, call: Call, changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's outputs, detached, ``(*S)`` by name, with other values of some inputs, in one pass."""
        inputs = _changed(call, changed)
        with torch.inference_mode(False):
            try:
                with torch.set_grad_enabled(self._differentiates):
                    return self._one(call, inputs)
            except Exception as error:
                if self._differentiates or not (needs_gradient(error) or missing_output(error)):
                    raise
            self._differentiates = True
            with torch.enable_grad():
                return self._one(call, _changed(call, changed))

    def attached(self, call: Call, structures: Structures, rotations: Tensor) -> dict[str, Tensor]:
        """``h_g``, ``(C, *S)`` by output, hanging on the call's own inputs, so that it can be differentiated by them.

        Copies of dense batches are stacked where that gives what they give one by one.
        """
        schema, count = self.reader.known_schema, len(rotations)
        rotated = structures.rotate(call.inputs, schema, rotations)
        dense = count > 1 and structures.layout == "leading" and type(self.reader.adapter) in _PLAIN
        dense = dense and not (self.stacks is None and transforming())  # under vmap two outputs cannot be compared
        if dense and self.stacks is None:
            two = {name: v[:2] for name, v in rotated.items()}
            join = partial(self._dense, call, structures, two, attached=True)
            self.stacks = self._stacking_is_right(call, two, join, attached=True)
        if dense and self.stacks:
            outputs = self._dense(call, structures, rotated, attached=True)
        else:
            outputs = self._each(call, rotated, count, attached=True)
        return structures.rotate_back(outputs, schema, rotations)

    def _evaluate(self, call: Call, structures: Structures, rotations: Tensor) -> dict[str, Tensor]:
        schema = self.reader.known_schema
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(self._differentiates))
            rotated = structures.rotate(call.inputs, schema, rotations)
            together = self._together(call, structures, rotated) if len(rotations) > 1 else None
            outputs = self._each(call, rotated, len(rotations)) if together is None else together
            return structures.rotate_back(outputs, schema, rotations)

    def _one(self, call: Call, inputs: dict[str, Any], *, attached: bool = False) -> dict[str, Tensor]:
        """Raw outputs of one pass, detached unless they are to hang on the inputs."""
        if self._differentiates and not attached:
            for name in call.differentiated:
                inputs[name].requires_grad_()
        args, kwargs = call.rebuild(inputs)
        outputs = read_outputs(self._raw(*args, **kwargs), self.reader.known_schema)
        return outputs if attached else {name: v.detach() for name, v in outputs.items()}

    def _raw(self, *args: Any, **kwargs: Any) -> Any:
        """The network's raw output."""
        raw = self.reader.network(*args, **kwargs)
        if self.on_output is not None:
            self.on_output(raw)
        return raw

    def _each(
        self, call: Call, rotated: Mapping[str, Tensor], count: int, *, attached: bool = False
    ) -> dict[str, Tensor]:
        """Raw outputs of copies, one pass each, ``(C, *S)``."""
        each = []
        for k in range(count):
            if self.start is not None:
                self.start.restore()
            inputs = _copy(call, rotated, k, attached=attached)
            with nullcontext() if self.rounding is None else self._off_by_rounding(inputs, rotated, self.rounding):
                each.append(self._one(call, inputs, attached=attached))
        return {name: torch.stack([one[name] for one in each]) for name in each[0]}

    @contextmanager
    def _off_by_rounding(
        self, inputs: dict[str, Any], rotated: Mapping[str, Tensor], rounding: tuple[torch.Generator, float]
    ) -> Iterator[None]:
        """A context of a pass whose weights are off by rounding, as what rotates of the inputs is then."""
        inputs.update({name: perturbed(inputs[name], *rounding) for name in rotated})
        with perturbed_weights(self.reader.network, *rounding):
            yield

    def _together(self, call: Call, structures: Structures, rotated: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Raw outputs of several copies from one pass, ``(C, *S)``; None where copies cannot be stacked."""
        if self.stacks is False or self.rounding is not None or (self.stacks is None and transforming()):
            return None
        joined = self.reader.adapter.stack(call.inputs, rotated)
        if joined is None and structures.layout != "leading":
            return None
        if self.stacks is None and (joined is None or self.reader.adapter.unsure):
            two = {name: v[:2] for name, v in rotated.items()}
            join = self.reader.adapter.stack(call.inputs, two) if joined is not None else None
            self.stacks = self._stacking_is_right(call, two, lambda: self._pass(call, structures, two, join))
            if not self.stacks:
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
            return False  # an output that does not follow the first axis, or a model of fixed batch size
        return all(alone[name].shape == joined[name].shape and close(alone[name], joined[name]) for name in alone)

    def copies_at_once(self, structures: Structures, inputs: Mapping[str, Any]) -> int:
        """Copies to try in one pass: as many as can be stacked; on a CPU no more than its cache is good for."""
        if type(self.reader.adapter) in _PLAIN and (structures.layout != "leading" or self.stacks is False):
            return 1
        given = [
            v
            for n, rep in self.reader.known_schema.inputs.items()
            if rep.event_shape and (v := inputs.get(n)) is not None
        ]
        on_cpu = given[0].device.type == "cpu"
        return max(1, min(self.chunk, CPU_NUMBERS // max(1, given[0].numel()))) if on_cpu else self.chunk


def _copy(call: Call, rotated: Mapping[str, Tensor], k: int, *, attached: bool = False) -> dict[str, Any]:
    """Fresh inputs of the k-th copy; attached, those that rotate hang on the call's, and the others are the call's."""
    own = {name: laid_out_as(value[k], call.inputs[name]) for name, value in rotated.items()}
    if attached:
        return {**call.inputs, **{name: value.clone() for name, value in own.items()}}
    return {name: cloned(own.get(name, value)) for name, value in call.inputs.items()}


def _changed(call: Call, changed: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fresh inputs of a call with other values of some, which lie in memory as the call's do."""
    own = {name: laid_out_as(value, call.inputs[name]) for name, value in changed.items()}
    return {name: cloned(own.get(name, value)) for name, value in call.inputs.items()}


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding in their precision, on the scale of the whole tensor."""
    if a.is_meta:
        return b.is_meta  # no numbers to compare
    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    a, b = a.detach(), b.detach()
    scale = float(a.abs().max()) if a.numel() else 0.0
    gap = float((a - b).abs().max()) if a.numel() else 0.0
    return math.isfinite(gap) and gap <= 100 * torch.finfo(a.dtype).eps * max(scale, torch.finfo(a.dtype).tiny)
