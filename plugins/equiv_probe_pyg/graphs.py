"""The tensors of a PyG graph by name, and back to a graph: ``Data``, ``Batch`` and ``HeteroData``.

A homogeneous graph's tensors go by their attributes (``pos``, ``edge_index``), a heterogeneous one's by type and
attribute (``ligand.pos``, ``ligand__near__protein.edge_index``).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch_geometric.data import Batch
from torch_geometric.data.data import BaseData

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.schema.schema import Named

_MATRICES = {"cell", "cells", "lattice", "box", "stress", "stresses", "virial", "virials"}
_MATRICES |= {"polarizability", "quadrupole"}
_ARROWS = {"dipole", "dipoles", "dipole_moment", "electric_field", "magnetic_field", "torque", "angular_momentum"}
INDEX_NAMES = {"batch", "batch_idx", "batch_index", "graph_index"}


def plain(name: str) -> str:
    """The attribute in a name, without its type or container."""
    return name.rpartition(".")[2].lower()


def is_graph(value: Any) -> bool:
    """Whether a value is one of PyG's graphs, or a batch of them."""
    return isinstance(value, BaseData)


def dense(value: Any) -> bool:
    """Whether a value is an ordinary tensor, which can be indexed and joined."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_nested


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a graph: the number of its store, its attribute, and its shape there beyond the first."""

    store: int
    attribute: str
    rest: tuple[int, ...]
    per_graph: bool
    """Shown with a leading axis of graphs, which it has not where it lies."""


@dataclass(frozen=True)
class Held:
    """A graph of one call, as a shallow copy, and the places of its tensors by name."""

    graph: Any
    places: Mapping[str, Place]

    @classmethod
    def of(cls, graph: Any, prefix: str, taken: Named) -> tuple[Held, Named]:
        """Read a graph; names that are taken get the prefix."""
        own = copy.copy(graph)
        count = graphs_in(own)
        places: dict[str, Place] = {}
        values: Named = {}
        for number, store in enumerate(own.stores):
            for attribute, value in store.items():
                if not dense(value):
                    continue
                name = name_of(store, attribute)
                name = f"{prefix}.{name}" if name in taken or name in values else name
                shown = per_graph(attribute, value, count)
                places[name] = Place(number, attribute, tuple(value.shape[1:]), shown is not None)
                values[name] = value if shown is None else shown
        return cls(own, places), values

    def rebuilt(self, values: Named) -> Any:
        """A fresh graph with such values."""
        graph = copy.copy(self.graph)
        stores = graph.stores
        for name, place in self.places.items():
            value = values[name]
            stores[place.store][place.attribute] = value.reshape(-1, *place.rest) if place.per_graph else value
        return graph

    def store(self, name: str) -> Any:
        """The store in which a tensor lies."""
        return self.graph.stores[self.places[name].store]

    def named(self, store: Any, attribute: str) -> str | None:
        """The name of an attribute of a store, if it has that."""
        number = next(i for i, one in enumerate(self.graph.stores) if one is store or one._key == store._key)
        wanted = (number, attribute)
        return next((name for name, p in self.places.items() if (p.store, p.attribute) == wanted), None)

    def bookkeeping(self, name: str, which: str) -> Any:
        """What a batch wrote down about an attribute when it was put together, ``_slice_dict`` or ``_inc_dict``."""
        place = self.places[name]
        return entry(written_down(self.graph, which) or {}, self.store(name)._key, place.attribute)


def written_down(graph: Any, which: str) -> Any:
    """What PyG keeps about a batch beside its attributes: ``_num_graphs``, ``_slice_dict``, ``_inc_dict``; or None."""
    return vars(graph.stores[0]).get(which)  # asked by name, a heterogeneous graph would look through its types


def entry(kept: Mapping[Any, Any], key: Any, attribute: str) -> Any:
    """One entry of a batch's ``_slice_dict`` or ``_inc_dict``, or None."""
    inner = kept if key is None else kept.get(key, {})
    return inner.get(attribute)


def name_of(store: Any, attribute: str) -> str:
    """The name of an attribute of a store."""
    key = store._key
    if key is None:
        return attribute
    return f"{key if isinstance(key, str) else '__'.join(key)}.{attribute}"


def graphs_in(graph: Any) -> int | None:
    """The number of graphs of a batch, as far as the host knows it; None of a single graph."""
    if isinstance(graph, Batch):
        count = written_down(graph, "_num_graphs")
        if count is not None:
            return int(count)
    pointer = next((store["ptr"] for store in graph.stores if "ptr" in store), None)
    return None if pointer is None else len(pointer) - 1


def per_graph(name: str, value: Tensor, count: int | None) -> Tensor | None:
    """A quantity of whole graphs that was joined along its first axis, ``(3B, 3)`` or ``(3B,)``, by graphs.

    PyG joins the cells ``(3, 3)`` of B graphs to ``(3B, 3)``. A count of None is that of a single graph.
    """
    if count is None or not value.is_floating_point():
        return None
    name, shape = plain(name), tuple(value.shape)
    if name in _MATRICES and shape == (3 * count, 3):
        return value.reshape(count, 3, 3)
    if name in _MATRICES and shape == (6 * count,):
        return value.reshape(count, 6)
    if name in _ARROWS and shape == (3 * count,):
        return value.reshape(count, 3)
    return None
