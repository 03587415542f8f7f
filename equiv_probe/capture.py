"""What a module was called with, and what it answered, as tensors by name; and back to the call and to the answer.

An adapter does this for batches that are not made of tensors, tuples and dicts.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch

from equiv_probe import plugins
from equiv_probe.errors import EquivProbeError
from equiv_probe.isolation import network
from equiv_probe.schema import Named, named

if TYPE_CHECKING:
    from torch import Tensor, nn

    from equiv_probe.schema import Schema
    from equiv_probe.turning import Structures

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Rebuild = Callable[[Named], Arguments]
Split = Callable[[tuple[Any, ...], dict[str, Any]], tuple[Named, Rebuild]]
Part = Callable[[Mapping[str, "Tensor"]], dict[str, "Tensor"]]


class Adapter(Protocol):
    """How a framework's batches are read and written.

    An adapter may also have ``infer(inputs, raw, declared)``, which takes the place of :meth:`Schema.infer` where the
    framework defines what a tensor is, ``dicts(args, kwargs)``, the dicts inside its batches into which a network may
    write, and ``unsure = True`` if stacking goes by convention: then two copies are evaluated together and one by one,
    once, and must agree.
    """

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """Arguments of a call by name, and how to make fresh arguments from such values."""

    def stack(self, inputs: Named, turned: Mapping[str, Tensor]) -> tuple[Named, Part] | None:
        """One call's arguments for several copies of a call.

        Args:
            inputs: of the call, ``(*S)`` by name.
            turned: the inputs that turn, for every copy, ``(C, *S)`` by name.

        Returns:
            The arguments by name, and how to part the outputs of that one call into ``(C, *S)``; None where copies
            cannot share a call.
        """

    def structures(self, inputs: Named, schema: Schema, center: str | Tensor) -> Structures | None:
        """Which rotation belongs to what; None to go by the names of the inputs."""


class CallAdapter:
    """Calls with tensors, tuples, dicts and keywords, named as in the signature of ``forward``; dicts by their keys.

    Copies are not stacked: the probe itself does that for dense batches.
    """

    def __init__(self, module: nn.Module) -> None:
        kinds = inspect.Parameter
        try:
            parameters = list(inspect.signature(network(module).forward).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        self._names = [p.name for p in parameters if p.kind in {kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD}]
        self.optional = frozenset(p.name for p in parameters if p.default is not kinds.empty)
        """Inputs that a call may leave out."""

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """See :class:`Adapter`; the entries of a tuple are ``name.0``, ``name.1`` and so on."""
        labels = [self._names[i] if i < len(self._names) else str(i) for i in range(len(args))]
        slots = [*zip(labels, args, strict=True), *kwargs.items()]
        leaves: Named = {}
        places: list[dict[Any, str] | str] = []
        for label, value in slots:
            if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
                place = {key: key if key not in leaves else f"{label}.{key}" for key in value}
                leaves.update({place[key]: entry for key, entry in value.items()})
                places.append(place)
            elif isinstance(value, (tuple, list)):
                place = {i: f"{label}.{i}" for i in range(len(value))}
                leaves.update({place[i]: entry for i, entry in enumerate(value)})
                places.append(place)
            else:
                leaves[label] = value
                places.append(label)

        def rebuild(values: Named) -> Arguments:
            made = [_remade(value, place, values) for (_, value), place in zip(slots, places, strict=True)]
            return tuple(made[: len(args)]), dict(zip(kwargs, made[len(args) :], strict=True))

        return leaves, rebuild

    def stack(self, inputs: Named, turned: Mapping[str, Tensor]) -> tuple[Named, Part] | None:
        """See :class:`Adapter`."""
        del inputs, turned
        return None

    def structures(self, inputs: Named, schema: Schema, center: str | Tensor) -> Structures | None:
        """See :class:`Adapter`."""
        del inputs, schema, center
        return None


def adapter_for(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Adapter:
    """The adapter of the plugin that knows a call's batch, or that of plain tensors, tuples and dicts."""
    for read in _readers():
        adapter = read(module, args, kwargs)
        if adapter is not None:
            return adapter
    return CallAdapter(module)


@cache
def _readers() -> list[Callable[[Any, tuple[Any, ...], dict[str, Any]], Adapter | None]]:
    return [plugin.adapter for plugin in plugins.installed()[0] if plugin.adapter is not None]


def _remade(value: Any, place: dict[Any, str] | str, values: Named) -> Any:
    if isinstance(place, str):
        return values[place]
    entries = {key: values[name] for key, name in place.items()}
    if isinstance(value, Mapping):
        return updated(value, entries)
    return _sequence(value, list(entries.values()))


def _sequence(like: Any, entries: list[Any]) -> Any:
    return type(like)(*entries) if hasattr(like, "_fields") else type(like)(entries)


def updated(like: Mapping[str, Any], entries: Mapping[str, Any]) -> Any:
    """A shallow copy of a mapping, of its own type, with other entries."""
    fresh: Any = copy.copy(like)
    for key, entry in entries.items():
        fresh[key] = entry
    return fresh


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
    def of(
        cls, split: Split, args: tuple[Any, ...], kwargs: dict[str, Any], own: list[dict[str, Any]] | None = None
    ) -> Call:
        """Keep a call; its tensors are cloned, since the network may write into them, and into its ``own`` dicts."""
        leaves, rebuild = split(args, kwargs)
        differentiated = frozenset(n for n, v in leaves.items() if isinstance(v, torch.Tensor) and v.requires_grad)
        dicts = tuple((v, dict(v)) for v in (dicts_among(args, kwargs) if own is None else own))
        # Outside inference mode, so that a model may differentiate the copies.
        with torch.inference_mode(False), torch.no_grad():
            return cls({name: cloned(value) for name, value in leaves.items()}, rebuild, differentiated, dicts)


def dicts_among(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments of a call that are dicts, into which a network may write."""
    return [value for value in (*args, *kwargs.values()) if isinstance(value, dict)]


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
    if isinstance(raw, Mapping):
        return updated(raw, values)
    if dataclasses.is_dataclass(raw) and not isinstance(raw, type):
        return dataclasses.replace(raw, **values)
    entries = {**named(raw, names), **values}
    if isinstance(raw, (tuple, list)):
        return _sequence(raw, list(entries.values()))
    return next(iter(entries.values()))
