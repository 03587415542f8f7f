"""What a module was called with, and what it answered, as tensors by name; and back to the call and to the answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.adapters import sequence, updated
from equiv_probe.orbit.memory_layout import laid_out_as
from equiv_probe.schema.schema import Named, named

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.live.adapters import Adapter, Rebuild
    from equiv_probe.schema.schema import Schema


@dataclass(frozen=True)
class Call:
    """One call of the network, kept.

    Attributes:
        inputs: by name; tensors are detached clones.
        rebuild: fresh arguments from inputs.
        differentiated: inputs that required a gradient when the call was made.
        dicts: the caller's own dicts, and what they held before the call.
    """

    inputs: Named
    rebuild: Rebuild
    differentiated: frozenset[str]
    dicts: tuple[tuple[dict[str, Any], dict[str, Any]], ...]

    @classmethod
    def of(cls, adapter: Adapter, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Keep a call; its tensors are cloned, since the network may write into them."""
        leaves, rebuild = adapter.split(args, kwargs)
        differentiated = frozenset(n for n, v in leaves.items() if isinstance(v, torch.Tensor) and v.requires_grad)
        dicts = tuple((given, dict(given)) for given in adapter.dicts(args, kwargs))
        # Outside inference mode, so that a model may differentiate the copies.
        with torch.inference_mode(False), torch.no_grad():
            return cls({name: cloned(value) for name, value in leaves.items()}, rebuild, differentiated, dicts)


def cloned(value: Any) -> Any:
    """A detached clone of a tensor; anything else as it is."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def wide(value: Tensor) -> Tensor:
    """In float64, in which moments are taken; float32 on devices without it."""
    return value.float() if value.device.type == "mps" else value.double()


def read_outputs(raw: Any, schema: Schema) -> dict[str, Tensor]:
    """The outputs that the schema names, as the model gave them.

    Raises:
        EquivProbeError: one is missing, or is not a tensor.
    """
    values = all_outputs(raw, list(schema.outputs))
    missing = [name for name in schema.outputs if not isinstance(values.get(name), torch.Tensor)]
    if missing:
        raise EquivProbeError(
            f"outputs {sorted(values)}", f"the schema's outputs {missing}", 'ep.Schema(outputs={"<name>": ...})'
        )
    return {name: values[name] for name in schema.outputs}


def all_outputs(raw: Any, names: list[str] | None = None) -> Named:
    """A tensor, tuple, mapping or dataclass as values by name."""
    if dataclasses.is_dataclass(raw) and not isinstance(raw, (type, Mapping)):
        return {field.name: getattr(raw, field.name) for field in dataclasses.fields(raw)}
    return named(raw, names)


def write_outputs(raw: Any, values: Mapping[str, Any], names: list[str]) -> Any:
    """A copy of a model's answer with some values replaced; ``names`` as for :func:`all_outputs`."""
    given = all_outputs(raw, names)
    values = {
        name: laid_out_as(value, given[name]) if isinstance(given.get(name), torch.Tensor) else value
        for name, value in values.items()
    }
    if isinstance(raw, Mapping):
        return updated(raw, values)
    if dataclasses.is_dataclass(raw) and not isinstance(raw, type):
        return dataclasses.replace(raw, **values)
    entries = {**named(raw, names), **values}
    if isinstance(raw, (tuple, list)):
        return sequence(raw, list(entries.values()))
    return next(iter(entries.values()))
