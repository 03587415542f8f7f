"""How a framework's batches are read and written.

An adapter is for batches that are not made of tensors, tuples and dicts; a plugin offers it through its entry point.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from equiv_probe.live.isolation import network
from equiv_probe.schema.schema import Named, Schema, named, unnamed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.schema.structures import Structures

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Rebuild = Callable[[Named], Arguments]
Part = Callable[[Mapping[str, "Tensor"]], dict[str, "Tensor"]]


class Adapter(ABC):
    """How a framework's batches are read and written."""

    optional: frozenset[str] = frozenset()
    """Inputs that a call may leave out."""
    unsure: ClassVar[bool] = False
    """Whether copies are joined by convention: then two are evaluated together and one by one, once, and must agree."""

    @abstractmethod
    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """Arguments of a call by name, and how to make fresh arguments from such values."""

    def stack(self, inputs: Named, rotated: Mapping[str, Tensor]) -> tuple[Named, Part] | None:
        """One call's arguments for several copies of a call.

        Args:
            inputs: of the call, ``(*S)`` by name.
            rotated: the inputs that rotate, for every copy, ``(C, *S)`` by name.

        Returns:
            The arguments by name, and how to part the outputs of that one call into ``(C, *S)``; None where copies
            cannot share a call, or are dense batches ``(B, N, 3)``, which the probe joins itself.
        """
        del inputs, rotated
        return None

    def structures(self, inputs: Named, schema: Schema, center: str | Tensor) -> Structures | None:
        """Which rotation belongs to what; None to go by the names of the inputs."""
        del inputs, schema, center
        return None

    def infer(self, inputs: Named, raw: Any, declared: Schema | None) -> Schema:
        """The schema of a call and its answer, as far as it is not declared."""
        return Schema.infer(inputs, raw, declared)

    def labels(self) -> Evaluate | None:
        """What finds the labels among the inputs of a call where nobody named them; None where nothing can."""
        return None

    def dicts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[dict[str, Any]]:
        """The caller's own dicts, into which a network may write."""
        return [value for value in (*args, *kwargs.values()) if isinstance(value, dict)]


class CallAdapter(Adapter):
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

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """See :class:`Adapter`; entries of a tuple are ``name.0`` and so on, keys that are taken ``name.key``."""
        labels = [self._names[i] if i < len(self._names) else str(i) for i in range(len(args))]
        slots = [*zip(labels, args, strict=True), *kwargs.items()]
        leaves: Named = {}
        places: list[dict[Any, str] | str] = []
        taken = {label for label, value in slots if not isinstance(value, (Mapping, tuple, list))}
        for label, value in slots:
            if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
                place = {key: key if key not in taken else f"{label}.{key}" for key in value}
                taken |= set(place.values())
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


class InputAdapter(CallAdapter):
    """Calls with one argument, named as :func:`equiv_probe.twirl` names it: tensors and tuples by the schema's order.

    Args:
        module: the network.
        names: of the argument, or of its entries.
    """

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__(module)
        self._order = names

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """See :class:`Adapter`."""
        (given,) = args
        return named(given, self._order), lambda values: ((unnamed(values, given),), kwargs)


def _remade(value: Any, place: dict[Any, str] | str, values: Named) -> Any:
    if isinstance(place, str):
        return values[place]
    entries = {key: values[name] for key, name in place.items()}
    if isinstance(value, Mapping):
        return updated(value, entries)
    return sequence(value, list(entries.values()))


def sequence(like: Any, entries: list[Any]) -> Any:
    """A tuple or list of its own type, with other entries."""
    return type(like)(*entries) if hasattr(like, "_fields") else type(like)(entries)


def updated(like: Mapping[str, Any], entries: Mapping[str, Any]) -> Any:
    """A shallow copy of a mapping, of its own type, with other entries."""
    fresh: Any = copy.copy(like)
    for key, entry in entries.items():
        fresh[key] = entry
    return fresh
