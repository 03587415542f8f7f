"""What the calls of a network are made of: read by an adapter, and which of it rotates how."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.adapter_choice import adapter_for
from equiv_probe.live.capture import Call, transforming
from equiv_probe.live.isolation import isolated
from equiv_probe.live.outputs import all_outputs
from equiv_probe.live.random_state import RandomState
from equiv_probe.live.wrappers import described
from equiv_probe.schema.batch_layout import first_equal, primary, resolve_batch
from equiv_probe.schema.inference import require_nothing_hidden
from equiv_probe.schema.structures import Structures
from equiv_probe.schema.translation import settled, undecided

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from equiv_probe.live.adapters import Adapter, Rebuild
    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.schema import Named, Schema


class CallReader:
    """Reads calls, and settles their schema by the first of them.

    Args:
        network: that is called, without its wrappers.
        schema: representations; None infers them.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        adapter: of a framework's batches; None finds it by the first call.
    """

    def __init__(
        self, network: nn.Module, schema: Schema | None, center: str | Tensor, adapter: Adapter | None
    ) -> None:
        self.network, self.schema, self.center = network, schema, center
        self._adapter, self._declared = adapter, schema
        self._seen: set[str] = set()
        self.evaluate: Callable[[Call, Mapping[str, Any]], dict[str, Tensor]] | None = None
        """The network's outputs with other values of some inputs, for whoever can evaluate it."""

    def reading(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Adapter:
        """What reads the calls; the first one shows it."""
        if self._adapter is None:
            self._adapter = adapter_for(described(self.network), args, kwargs)
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
        """The schema, inferred from a call and its output where it is not declared; announced once.

        Raises:
            EquivProbeError: it does not fit, or is ambiguous.
        """
        if self.schema is not None and not set(self.schema.inputs) <= set(call.inputs):
            self.schema = replace(self.schema, inputs=_of_parts(self.schema.inputs, call.inputs))
        if self.schema is None or not self.knows(call.inputs):
            schema, declared = self.schema, self._declared
            if schema is None or declared is None or not (declared.inputs and declared.outputs):
                # Also for an input that earlier calls did not have: self-conditioning begins with nothing.
                schema = self.adapter.infer(call.inputs, raw, schema)
                if not schema.outputs:
                    raise EquivProbeError(
                        f"an output without tensors: {type(raw).__name__} of {sorted(all_outputs(raw))}",
                        "a tensor, or a tuple, dict or dataclass of tensors",
                        "probe a module inside that puts them out, or wrap this one",
                    )
                schema = self._settled(call, schema)
                schema.announce()
            elif not self._seen:
                missing = sorted(set(schema.inputs) - set(call.inputs) - self._may_come(call, schema))
                if missing:
                    found = f"inputs {sorted(call.inputs)}"
                    fix = f"name them so in the schema: ep.Schema(inputs={{{sorted(call.inputs)[0]!r}: ..., ...}})"
                    raise EquivProbeError(found, f"the schema's inputs {missing}", fix)
                require_nothing_hidden(call.inputs, schema.inputs, {*schema.outputs, *schema.targets})
            self.schema = resolve_batch(schema, call.inputs)
            self._seen |= _tensor_names(call.inputs)
        return self.schema

    def _settled(self, call: Call, schema: Schema) -> Schema:
        """The schema, with outputs that move along with a structure as points: two passes, once, without a trace."""
        if self.evaluate is None or not undecided(schema) or transforming():
            return schema
        if isinstance(self.center, str) and self.center == "origin":
            return schema
        evaluate, before, self.schema = self.evaluate, self.schema, schema
        try:
            with isolated(self.network):
                start = RandomState.now()

                def outputs_at(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
                    start.restore()
                    return evaluate(call, inputs)

                return settled(schema, call.inputs, outputs_at)
        except Exception:
            return schema  # a network that refuses moved structures leaves the question open
        finally:
            self.schema = before

    def _may_come(self, call: Call, schema: Schema) -> set[str]:
        """Inputs that this call may leave out: optional ones, and earlier outputs in a dict that is optional."""
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
        return rotations[:, :, first_equal(value, index, structures.count)]


def _tensor_names(inputs: Mapping[str, Any]) -> set[str]:
    return {name for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def _of_parts(declared: Mapping[str, Representation], inputs: Mapping[str, Any]) -> dict[str, Representation]:
    """What is declared of an argument that holds several tensors, as ``edges`` of ``edges.0``, of each of these."""
    found: dict[str, Representation] = {}
    for name, rep in declared.items():
        parts = [] if name in inputs else [one for one in inputs if one.startswith(f"{name}.")]
        found.update(dict.fromkeys(parts or [name], rep))
    return found
