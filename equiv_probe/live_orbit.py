"""The orbit of one captured call of a live module: turned copies through the network, in as few passes as will do."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.capture import CallAdapter, cloned, read_outputs, wide
from equiv_probe.errors import EquivProbeError
from equiv_probe.isolation import missing_output, needs_gradient, network
from equiv_probe.losses import LOSSES, Reduction
from equiv_probe.measurement import Objective, measure
from equiv_probe.orbit import Moments, Orbit
from equiv_probe.schema import Schema
from equiv_probe.turning import Structures, resolve_batch
from equiv_probe.twirl import in_chunks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from equiv_probe.capture import Adapter, Call
    from equiv_probe.measurement import Measurement
    from equiv_probe.rotations import RotationPlan


class LiveOrbit:
    """How to evaluate a module at turned copies of its calls.

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
        self.adapter: Adapter = adapter or CallAdapter(module)
        self.schema, self.center, self.chunk = schema, center, chunk
        self._declared = schema
        self._seen: set[str] = set()
        self._stacks = stack
        self._differentiates = False

    def resolve(self, call: Call, raw: Any) -> Schema:
        """The schema, inferred from a call and its answer where it is not declared; announced once.

        Raises:
            EquivProbeError: it does not fit, or is ambiguous.
        """
        if self.schema is None or not self.knows(call.inputs):
            schema, declared = self.schema, self._declared
            if schema is None or declared is None or not (declared.inputs and declared.outputs):
                # Also for an input that earlier calls did not have: self-conditioning begins with nothing.
                schema = Schema.infer(call.inputs, raw, schema)
                schema.announce()
            elif not self._seen:
                optional: frozenset[str] = getattr(self.adapter, "optional", frozenset())
                missing = sorted(set(schema.inputs) - set(call.inputs) - optional)
                if missing:
                    found = f"inputs {sorted(call.inputs)}"
                    raise EquivProbeError(found, f"the schema's inputs {missing}", "ep.Schema(inputs={...})")
            self.schema = resolve_batch(schema, call.inputs)
            self._seen |= _tensor_names(call.inputs)
        return self.schema

    def knows(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a call with such inputs was resolved before."""
        return bool(self._seen) and _tensor_names(inputs) <= self._seen

    def structures(self, inputs: Mapping[str, Any]) -> Structures:
        """Which rotation belongs to what, for the inputs of one call."""
        assert self.schema is not None
        return Structures.of(inputs, self.schema, self.center)

    def measure(self, call: Call, raw: Any, plan: RotationPlan, rotations: Tensor) -> dict[str, Measurement]:
        """The label-free squared-error ``L_equiv`` of every structure and output; nothing waits for the device.

        Args:
            call: the captured call.
            raw: the user's own answer, which only serves as the point that moments are taken about.
            plan: the plan that drew the rotations.
            rotations: ``(R, n, U, 3, 3)``.
        """
        schema, structures = self.resolve(call, raw), self.structures(call.inputs)
        about = {name: wide(value.detach()) for name, value in read_outputs(raw, schema).items()}
        flat = rotations.flatten(0, 1)
        moments = Moments(about, plan.weights, len(rotations))
        for values in in_chunks(
            lambda a, b: self.pulled_back(call, structures, flat[a:b]), len(flat), self._chunk(structures)
        ):
            moments.add({name: wide(value) for name, value in values.items()})
        orbit = Orbit(schema, plan, flat, moments.weights, *moments.result(), values=None)
        return {
            name: measure(orbit, Objective((name,), LOSSES["mse"], {name: v}, _reduction(structures, v), False))
            for name, v in about.items()
        }

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
        """``h_g`` one by one, hanging on the call's own inputs, so that it can be differentiated by them."""
        schema = self.schema
        assert schema is not None
        back = []
        for g in rotations:
            args, kwargs = call.rebuild({**call.inputs, **structures.turn(call.inputs, schema, g)})
            back.append(structures.turn_back(read_outputs(self.network(*args, **kwargs), schema), schema, g))
        return {name: torch.stack([one[name] for one in back]) for name in schema.outputs}

    def _evaluate(self, call: Call, structures: Structures, rotations: Tensor) -> dict[str, Tensor]:
        schema = self.schema
        assert schema is not None
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(self._differentiates))
            copies = []
            for g in rotations:
                turned = structures.turn(call.inputs, schema, g)
                copies.append({n: cloned(turned.get(n, v)) for n, v in call.inputs.items()})
            if self._differentiates:
                for copy in copies:
                    for name in call.differentiated:
                        copy[name].requires_grad_()
            together = self._together(call, structures, copies) if len(copies) > 1 else None
            each = together or [self._one(call, copy) for copy in copies]
            back = [structures.turn_back(v, schema, g) for v, g in zip(each, rotations, strict=True)]
            return {name: torch.stack([one[name] for one in back]) for name in schema.outputs}

    def _one(self, call: Call, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Raw outputs of one copy, detached."""
        assert self.schema is not None
        args, kwargs = call.rebuild(dict(inputs))
        return {name: v.detach() for name, v in read_outputs(self.network(*args, **kwargs), self.schema).items()}

    def _together(
        self, call: Call, structures: Structures, copies: list[dict[str, Any]]
    ) -> list[dict[str, Tensor]] | None:
        """Raw outputs of several copies from one pass; None where copies cannot be stacked."""
        by_adapter = self.adapter.stack(copies)
        if by_adapter is not None:
            stacked, part = by_adapter
            return part(self._one(call, stacked))
        if self._stacks is False or structures.layout != "leading":
            return None
        if self._stacks is None:
            self._stacks = self._stacking_is_right(call, structures, copies[:2])
            if not self._stacks:
                return None
        return self._dense(call, structures, copies)

    def _dense(self, call: Call, structures: Structures, copies: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """One pass over copies of a dense batch, joined along its first axis."""
        size = structures.count
        joined = {
            name: torch.cat([copy[name] for copy in copies])
            if isinstance(value, torch.Tensor) and value.ndim and len(value) == size
            else value
            for name, value in copies[0].items()
        }
        if self._differentiates:
            for name in call.differentiated:
                joined[name] = joined[name].detach().requires_grad_()
        outputs = self._one(call, joined)
        parts = {name: value.reshape(len(copies), size, *value.shape[1:]) for name, value in outputs.items()}
        return [{name: value[k] for name, value in parts.items()} for k in range(len(copies))]

    def _stacking_is_right(self, call: Call, structures: Structures, copies: list[dict[str, Any]]) -> bool:
        """Whether two copies give together what they give one by one; waits for the device, once."""
        alone = [self._one(call, {name: cloned(v) for name, v in copy.items()}) for copy in copies]
        try:
            joined = self._dense(call, structures, copies)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False  # an answer that does not follow the first axis, or a model of fixed batch size
        return all(
            a[name].shape == b[name].shape and _close(a[name], b[name])
            for a, b in zip(alone, joined, strict=True)
            for name in a
        )

    def _chunk(self, structures: Structures) -> int:
        """Copies to try in one pass: as many as can be stacked."""
        stackable = structures.layout == "leading" and self._stacks is not False
        return self.chunk if stackable or type(self.adapter) is not CallAdapter else 1


def _tensor_names(inputs: Mapping[str, Any]) -> set[str]:
    return {name for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding in their precision, on the scale of the whole tensor."""
    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    scale = float(a.abs().max()) if a.numel() else 0.0
    gap = float((a - b).abs().max()) if a.numel() else 0.0
    return math.isfinite(gap) and gap <= 100 * torch.finfo(a.dtype).eps * max(scale, torch.finfo(a.dtype).tiny)


def _reduction(structures: Structures, value: Tensor) -> Reduction:
    """How the elements of one output belong to structures."""
    if structures.layout == "one" or value.ndim == 0:
        return Reduction()
    if structures.layout == "index":
        owner = structures.owner(value)
        if owner is None:
            assert structures.index is not None
            owner = structures.index
        return Reduction(owner, count=structures.count)
    mask = structures.mask
    if mask is None or value.shape[:2] != mask.shape:
        return Reduction("leading")
    return Reduction("leading", mask=mask.reshape(*mask.shape, *(1,) * (value.ndim - 2)))
