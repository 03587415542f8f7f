"""Several copies of a call as one: graphs side by side in one bigger graph, as PyG itself joins graphs.

What is offset and along which axis it is joined is what the graph's own ``__inc__`` and ``__cat_dim__`` say, for all
graphs at once; nothing loops over graphs or waits for the device.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch_geometric.data import Batch, Data, HeteroData

from equiv_probe_pyg.graphs import INDEX_NAMES, Held, dense, graphs_in, plain, written_down
from equiv_probe_pyg.sizes import CannotJoin, Sizes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.schema.schema import Named

_COUNTS = {"num_graphs", "batch_size", "num_nodes", "dim_size"}
_NODE_NUMBERS = {"idx_i", "idx_j", "senders", "receivers", "row", "col", "src", "dst", "face", "edge_idx"}


def joined(copies: Tensor, axis: int) -> Tensor:
    """Copies ``(C, *S)`` joined along one axis of S."""
    axis %= copies.ndim - 1
    return copies.movedim(0, axis).flatten(axis, axis + 1)


def repeated(value: Tensor, count: int, axis: int = 0, increment: int | Tensor = 0) -> Tensor:
    """So many copies of ``value``, joined along an axis; the k-th is raised by k times the increment."""
    value = value.as_subclass(torch.Tensor)
    copies = value.expand(count, *value.shape)
    if isinstance(increment, torch.Tensor) or increment:
        if isinstance(increment, torch.Tensor):
            increment = increment.to(value.device, non_blocking=True)
        steps = torch.arange(count, device=value.device).reshape(-1, *(1,) * value.ndim)
        copies = copies + (steps * increment).to(value.dtype)
    return joined(copies, axis)


def pointers(value: Tensor, count: int) -> Tensor:
    """Pointers ``(B + 1,)`` of so many copies, ``(C·B + 1,)``."""
    steps = torch.arange(count, device=value.device)[:, None]
    return torch.cat([value[:1], (value[1:] + steps * value[-1]).flatten()])


def join(inputs: Named, rotated: Mapping[str, Tensor]) -> Named | None:
    """The inputs of so many copies as there are of what rotates, side by side; None where that cannot be.

    Args:
        inputs: of one call by name, ``(*S)``.
        rotated: what rotates, ``(C, *S)`` by name.
    """
    count = len(next(iter(rotated.values())))
    try:
        sizes = Sizes.of(inputs)
        found: Named = {}
        for label, value in inputs.items():
            if isinstance(value, Held):
                found.update(_join_graph(label, value, inputs, sizes, count))
        for name, value in inputs.items():
            if name not in found:
                found[name] = _join_plain(name, value, sizes, count)
    except CannotJoin:
        return None
    for name, copies in rotated.items():
        if copies.ndim > 1:
            found[name] = joined(copies.detach(), _axis(name, inputs)).clone()
    return found


def _axis(name: str, inputs: Named) -> int:
    held = next((one for one in inputs.values() if isinstance(one, Held) and name in one.places), None)
    return 0 if held is None else _axis_in(held, name, inputs[name])


def _axis_in(held: Held, name: str, value: Tensor) -> int:
    """Along which axis an attribute is joined, as its graph's class says."""
    if held.places[name].per_graph:
        return 0
    axis = held.graph.__cat_dim__(held.places[name].attribute, value, held.store(name))
    if isinstance(axis, tuple):
        raise CannotJoin
    return int(axis or 0)


def _join_plain(name: str, value: Any, sizes: Sizes, count: int) -> Any:
    """An argument beside the graphs, or of a call with tensors only: its name says what it numbers."""
    short = plain(name)
    if isinstance(value, int) and not isinstance(value, bool) and short in _COUNTS:
        return value * count
    if value is None or isinstance(value, (str, bool, int, float)) or (dense(value) and value.ndim == 0):
        return value
    if not dense(value):
        raise CannotJoin
    if not value.is_floating_point() and value.dtype != torch.bool:
        if short == "ptr":
            return pointers(value, count)
        if short in INDEX_NAMES and sizes.increment is not None:
            return repeated(value, count, 0, sizes.increment)
        if "index" in short or short in _NODE_NUMBERS:
            if len(sizes.nodes) != 1:
                raise CannotJoin
            return repeated(value, count, -1, next(iter(sizes.nodes)))
    if not sizes.known(len(value)):
        raise CannotJoin
    return repeated(value, count)


def _join_graph(label: str, held: Held, inputs: Named, sizes: Sizes, count: int) -> Named:
    """A graph's tensors and the graph itself, side by side."""
    graph, own = copy.copy(held.graph), graphs_in(held.graph)
    found: Named = {}
    increments: dict[str, int | Tensor] = {}
    for name, place in held.places.items():
        value, noted = inputs[name], held.bookkeeping(name, "_slice_dict") is not None
        ending = "" if noted else place.attribute.rpartition("_")[2]
        if value.ndim == 0:
            found[name] = value
        elif ending == "ptr":
            found[name] = pointers(value, count)
        elif ending == "batch":
            found[name] = repeated(value, count, 0, value.max() + 1 if own is None else own)
        else:
            axis = _axis_in(held, name, value)
            if not noted and not place.per_graph and not _fits(value, axis, held.store(name), sizes):
                raise CannotJoin
            increments[name] = _increment(held, name, value)
            found[name] = repeated(value, count, axis, increments[name])
    for store in graph.stores:
        _join_others(graph, store, count)
    if isinstance(graph, Batch):
        if own is not None:
            graph._num_graphs = own * count
        _join_bookkeeping(graph, held, increments, count)
    found[label] = Held(graph, held.places)
    return found


def _fits(value: Tensor, axis: int, store: Any, sizes: Sizes) -> bool:
    """Whether something that was added to a batch later has an entry for every node, edge or graph."""
    length = value.shape[axis]
    own = {len(store["batch"])} if "batch" in store else set()
    own |= {store["edge_index"].shape[-1]} if "edge_index" in store else set()
    return length in own or sizes.known(length)


def _increment(held: Held, name: str, value: Tensor) -> int | Tensor:
    """By how much an attribute grows over all graphs of a batch, as its class says."""
    if value.is_floating_point() or value.dtype == torch.bool:
        return 0
    graph, store, attribute = held.graph, held.store(name), held.places[name].attribute
    noted = held.bookkeeping(name, "_inc_dict")
    own: Any = type(graph).__inc__
    if own is Data.__inc__ or own is HeteroData.__inc__:
        if "batch" in attribute:
            return value.max() + 1
        increment: int | Tensor = graph.__inc__(attribute, value, store)  # of the batch as a whole: nodes in all
        return increment
    if noted is None:
        raise CannotJoin
    # The class counts in its own way, maybe by a constant: ask its last graph, and add what came before.
    last = graph.get_example(graph.num_graphs - 1)
    of_last = last.stores[held.places[name].store]
    total: int | Tensor = noted[-1] + last.__inc__(attribute, of_last[attribute], of_last)
    return total


def _join_others(graph: Any, store: Any, count: int) -> None:
    """What of a store is not a tensor: numbers of nodes, names of molecules."""
    if hasattr(store, "_num_nodes") and isinstance(store._num_nodes, list):
        store._num_nodes = store._num_nodes * count
    for attribute, value in list(store.items()):
        if attribute == "num_nodes" and isinstance(value, int):
            store[attribute] = value * count
        elif isinstance(value, list) and not any(isinstance(one, (torch.Tensor, list, dict)) for one in value):
            store[attribute] = value * count if len(value) == graphs_in(graph) else value
        elif not (value is None or dense(value) or isinstance(value, (str, bool, int, float))):
            raise CannotJoin


def _join_bookkeeping(graph: Any, held: Held, increments: Mapping[str, int | Tensor], count: int) -> None:
    """So that the joined batch can be taken apart again."""
    slices, incs = written_down(graph, "_slice_dict"), written_down(graph, "_inc_dict")
    if slices is None or incs is None:
        return
    slices = {k: dict(v) if isinstance(v, dict) else v for k, v in slices.items()}
    incs = {k: dict(v) if isinstance(v, dict) else v for k, v in incs.items()}
    names = {(held.store(n)._key, p.attribute): n for n, p in held.places.items()}
    steps = torch.arange(count)
    for key, attribute in [(s._key, a) for s in graph.stores for a in s]:
        inside, raised = (slices, incs) if key is None else (slices.get(key, {}), incs.get(key, {}))
        if inside.get(attribute) is None:
            continue
        inside[attribute] = pointers(inside[attribute], count)
        by, before = increments.get(names.get((key, attribute), ""), 0), raised.get(attribute)
        if before is None:
            continue
        if isinstance(by, torch.Tensor) and by.device.type != "cpu":
            raise CannotJoin
        raised[attribute] = (before + steps.reshape(-1, *(1,) * before.ndim) * by).flatten(0, 1)
    graph._slice_dict, graph._inc_dict = slices, incs
