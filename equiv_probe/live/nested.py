"""Containers in containers as values by name, and back: dicts, tuples, NamedTuples, dataclasses and plain objects.

>>> tree, leaves = read({"inputs": {"pos": 1}, "more": (2, 3)})
>>> leaves
{'inputs.pos': 1, 'more.0': 2, 'more.1': 3}
>>> written(tree, {**leaves, "inputs.pos": 7})
{'inputs': {'pos': 7}, 'more': (2, 3)}
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.live.script_objects import script_entries, script_refilled
from equiv_probe.schema.usual_names import is_fractional, usual

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from equiv_probe.schema.schema import Named


@dataclass(frozen=True)
class Tree:
    """A value as it was given, and where its entries lie: a name each, or trees of their own.

    Attributes:
        value: that was given.
        places: the name, or the tree, of each of its entries; a name alone where it has none.
    """

    value: Any
    places: Mapping[Any, Tree] | str


def read(value: Any, label: str = "", taken: Container[str] = (), *, graphs: bool = False) -> tuple[Tree, Named]:
    """A value's leaves by name.

    Args:
        value: anything.
        label: of the value: the name of a leaf, and the beginning of the names of a tuple's entries.
        taken: names that are none of these leaves'; they get the label in front.
        graphs: whether graphs that keep their tensors by name are containers, too.
    """
    leaves: Named = {}

    def entries_of(inner: Any) -> dict[Any, Any] | None:
        return attributes(inner) if graphs and is_graph(inner) else entries(inner)

    found = entries_of(value)
    if found is None:
        return tree_of(value, label, entries_of, leaves), leaves
    has_names = not isinstance(value, (tuple, list)) or hasattr(value, "_fields")
    places = {}
    for key, entry in found.items():
        own = str(key) if (has_names and str(key) not in taken) or not label else f"{label}.{key}"
        places[key] = tree_of(entry, own, entries_of, leaves)
    return Tree(value, places), leaves


def tree_of(value: Any, name: str, entries_of: Callable[[Any], Mapping[Any, Any] | None], leaves: Named) -> Tree:
    """A value's tree, in which what lies deeper has the whole way to it as its name; its leaves are added to others.

    Args:
        value: anything.
        name: of the value.
        entries_of: what is in a container; None of what is none.
        leaves: by name, to add to.
    """
    found = entries_of(value)
    if found is None:
        leaves[name] = value
        return Tree(value, name)
    return Tree(value, {key: tree_of(entry, f"{name}.{key}", entries_of, leaves) for key, entry in found.items()})


def written(tree: Tree, values: Mapping[str, Any]) -> Any:
    """The value with such leaves, of its own type all the way down; nothing that was given is written into."""
    if isinstance(tree.places, str):
        return values[tree.places]
    made = {key: written(place, values) for key, place in tree.places.items()}
    return refilled(tree.value, made)


def entries(value: Any) -> dict[Any, Any] | None:
    """What is in a container, by key, field or place; None of what is none."""
    if isinstance(value, Mapping):
        return dict(value) if all(isinstance(key, str) for key in value) else None
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    if isinstance(value, torch.ScriptObject):
        return script_entries(value)
    return dict(vars(value)) if holds_coordinates(value) else None


def holds_coordinates(value: Any) -> bool:
    """Whether something is a plain object with coordinates or a cell among its attributes, by their names."""
    if isinstance(value, (torch.Tensor, nn.Module, type)) or not hasattr(value, "__dict__"):
        return False
    return coordinates_in(vars(value))


def coordinates_in(values: Mapping[str, Any]) -> bool:
    """Whether there are coordinates or a cell among values, by their names."""
    return any(
        isinstance(one, torch.Tensor)
        and one.shape[-1:] == (3,)
        and (is_fractional(name) or getattr(usual(name, tuple(one.shape)), "event_shape", ()))
        for name, one in values.items()
    )


def is_graph(value: Any) -> bool:
    """Whether a value keeps tensors by name as PyG's graphs do, whoever's graphs they are."""
    kind = type(value)  # an object's own attributes may raise what they like
    return not issubclass(kind, (Mapping, torch.Tensor)) and all(
        hasattr(kind, name) for name in ("to_dict", "__setitem__", "keys")
    )


def attributes(graph: Any) -> dict[str, Any] | None:
    """What a graph keeps by name; None of one with several kinds of nodes."""
    kept: Mapping[str, Any] = graph.to_dict()
    return None if "_global_store" in kept else dict(kept)


def refilled(like: Any, made: Mapping[Any, Any]) -> Any:
    """A container of the same type with other entries."""
    if isinstance(like, Mapping):
        return updated(like, made)
    if isinstance(like, (tuple, list)):
        return type(like)(*made.values()) if hasattr(like, "_fields") else type(like)(made.values())
    if isinstance(like, torch.ScriptObject):
        return script_refilled(like, made)
    fresh = copy.copy(like)
    if is_graph(like):
        return updated(like, {name: entry for name, entry in made.items() if entry is not like[name]})
    for name, entry in made.items():
        object.__setattr__(fresh, name, entry)  # frozen ones too; they are ours
    return fresh


def updated(like: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """A shallow copy of a mapping, of its own type, with other entries."""
    fresh: Any = copy.copy(like)
    for key, entry in values.items():
        fresh[key] = entry
    return fresh


def dicts_in(value: Any) -> Iterator[dict[str, Any]]:
    """The dicts in a value, itself included, into which somebody may write."""
    if isinstance(value, dict):
        yield value
    for entry in (entries(value) or {}).values():
        yield from dicts_in(entry)
