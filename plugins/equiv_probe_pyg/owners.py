"""Which structure every node, edge and point of a call of graphs belongs to, and about what each structure rotates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.schema.centers import centroids
from equiv_probe.schema.structures import Structures
from equiv_probe_pyg.graphs import Held, dense, graphs_in, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.schema.schema import Named, Schema


def structures_of(inputs: Named, schema: Schema, center: str | Tensor) -> Structures:
    """The structures of a call with graphs; of all node types of a graph, the points have one common centroid.

    The number of graphs is what the batch says it is; nothing waits for the device.
    """
    held = [value for value in inputs.values() if isinstance(value, Held)]
    batched = [one for one in held if _batches(one, inputs)]
    points = _points(inputs, schema)
    if not batched:
        return Structures("one", 1, center=_center(center, points, None, 1))
    known = [count for one in batched if (count := graphs_in(one.graph)) is not None]
    count = known[0] if known else max(len(index) for index in _batches(batched[0], inputs).values())
    owners: dict[str, Tensor] = {}
    for name, rep in schema.inputs.items():
        value = inputs.get(name)
        owner = _owner(name, inputs, batched) if dense(value) and rep.event_shape else None
        if owner is not None:
            owners[name] = owner
    indices = {kind: index for one in batched for kind, index in _batches(one, inputs).items()}
    for output in schema.outputs:
        kinds = [kind for kind in indices if kind and kind in output]
        if kinds:
            owners[output] = indices[max(kinds, key=len)]
    for kind, index in indices.items():
        owners.setdefault(f"{kind}.batch", index)
    only = batched[0] if len(batched) == len(held) == 1 and set(indices) == {""} else None
    return Structures(
        "index",
        count,
        index=indices[""] if only else None,
        edges=_edges(only, inputs) if only else None,
        owners=owners,
        center=_center(center, points, owners, count),
    )


def _batches(held: Held, inputs: Named) -> dict[str, Tensor]:
    """The batch vectors of a graph by node type, which is empty for a homogeneous graph."""
    found = {}
    for name, place in held.places.items():
        key = held.store(name)._key
        if place.attribute == "batch" and not isinstance(key, tuple):
            found[key or ""] = inputs[name].long()
    return found


def _points(inputs: Named, schema: Schema) -> dict[str, Tensor]:
    """The points that have a say in the centre: the first, and those of its name of other node types."""
    names = [n for n, rep in schema.inputs.items() if rep.is_affine and isinstance(inputs.get(n), torch.Tensor)]
    return {name: inputs[name].detach() for name in names if plain(name) == plain(names[0])}


def _center(
    center: str | Tensor, points: Mapping[str, Tensor], owners: Mapping[str, Tensor] | None, count: int
) -> Tensor | None:
    if not isinstance(center, str):
        some = next(iter(points.values()), center)
        return center.detach().to(some.device, non_blocking=True)
    if center not in {"origin", "centroid"}:
        raise EquivProbeError(f"center={center!r}", '"centroid", "origin" or a tensor')
    if center == "origin" or not points:
        return None
    joined = torch.cat([p if p.device.type == "mps" else p.double() for p in points.values()])
    if owners is None:
        return joined.mean(0)
    missing = [name for name in points if name not in owners]
    if missing:
        raise EquivProbeError(
            f"points {missing} without an index of their graphs",
            "a batch put together by PyG, or a batch vector",
            "torch_geometric.data.Batch.from_data_list(graphs)",
        )
    return centroids(joined, torch.cat([owners[name] for name in points]), count)


def _owner(name: str, inputs: Named, batched: list[Held]) -> Tensor | None:
    """Structure of each entry of the first axis of one input."""
    value = inputs[name]
    held = next((one for one in batched if name in one.places), None)
    if held is None:
        return None  # beside the graphs: its length will tell
    if held.places[name].per_graph:
        return torch.arange(len(value), device=value.device)
    store = held.store(name)
    batches = _batches(held, inputs)
    nodes = batches.get(store._key or "") if not isinstance(store._key, tuple) else None
    edges = _edges(held, inputs, store)
    rows = held.bookkeeping(name, "_slice_dict")
    if not isinstance(rows, torch.Tensor) or rows.ndim != 1:
        same = [index for index in (nodes, edges) if index is not None and len(index) == len(value)]
        return same[0] if same else None
    if nodes is not None and len(nodes) == len(value) and rows.tolist() == _rows(held, store, "pos"):
        return nodes
    if edges is not None and len(edges) == len(value) and rows.tolist() == _rows(held, store, "edge_index"):
        return edges
    # As many entries for each graph as were joined, whatever they are; the host knows how many that is.
    own = torch.repeat_interleave(torch.arange(len(rows) - 1), rows.diff())
    return own.to(value.device, non_blocking=True)


def _rows(held: Held, store: Any, attribute: str) -> list[int] | None:
    name = held.named(store, attribute)
    rows = None if name is None else held.bookkeeping(name, "_slice_dict")
    return rows.tolist() if isinstance(rows, torch.Tensor) else None


def _edges(held: Held | None, inputs: Named, store: Any = None) -> Tensor | None:
    """Structure of each edge, by its first node."""
    if held is None:
        return None
    store = held.graph.stores[0] if store is None else store
    name = held.named(store, "edge_index")
    if name is None:
        return None
    key = store._key
    nodes = _batches(held, inputs).get(key[0] if isinstance(key, tuple) else "")
    return None if nodes is None else nodes[inputs[name][0].long()]
