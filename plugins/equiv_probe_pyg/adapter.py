"""PyG's calls for the probe: with graphs anywhere among the arguments, or with the tensors of a batch of graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch_geometric.data import Batch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.adapters import Arguments, CallAdapter, Part, Rebuild
from equiv_probe.live.cutting import CannotCut, GraphNames, cut_graphs
from equiv_probe.live.outputs import all_outputs, new_outputs
from equiv_probe.representations import representation as reps
from equiv_probe.schema.schema import Schema
from equiv_probe_pyg.graphs import INDEX_NAMES, Held, dense, is_graph, plain
from equiv_probe_pyg.joining import join
from equiv_probe_pyg.labels import Labels
from equiv_probe_pyg.owners import structures_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.schema import Named
    from equiv_probe.schema.structures import Structures

LABELS = {"y", "target", "targets", "label", "labels"}
"""What PyG keeps labels under: they are no inputs, whatever their shape."""
_SHIFTS = {"shifts", "edge_shift", "edge_shifts", "shift_vectors", "pbc_offshift"}


def reads(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is of PyG's kind: a graph, or an index of graphs or of edges by name."""
    leaves = _Leaves(module).split(args, kwargs)[0]
    return any(is_graph(value) or _indexes(name, value) for name, value in leaves.items())


def _indexes(name: str, value: Any) -> bool:
    if not dense(value) or value.is_floating_point():
        return False
    edges = plain(name) == "edge_index" and value.ndim == 2 and len(value) == 2
    return edges or (plain(name) in INDEX_NAMES and value.ndim == 1)


class _Leaves(CallAdapter):
    """Calls whose graphs are left as they are."""

    opens_graphs = False


class GraphAdapter(_Leaves):
    """Reads, rotates, joins and parts calls with PyG's graphs or their tensors.

    Args:
        module: the network that is called.
        outputs: names of its outputs, and what they are as far as that is known; None takes them as they come.
    """

    unsure = True

    def __init__(self, module: nn.Module, outputs: Mapping[str, Representation | None] | None = None) -> None:
        super().__init__(module)
        self._outputs = outputs

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """A graph's tensors by name, beside the graph itself; see :mod:`equiv_probe_pyg.graphs` for the names."""
        given, rebuild_call = super().split(args, kwargs)
        inputs: Named = {name: value for name, value in given.items() if not is_graph(value)}
        graphs = {name: f"<{name}>" for name, value in given.items() if is_graph(value)}
        for name, label in graphs.items():
            held, values = Held.of(given[name], name, inputs)
            inputs.update({**values, label: held})

        def rebuild(values: Named) -> Arguments:
            made = {name: values[graphs[name]].rebuilt(values) if name in graphs else values[name] for name in given}
            return rebuild_call(made)

        # Points first: of two arrays of threes, the other one is in need of an explanation.
        return dict(sorted(inputs.items(), key=lambda item: plain(item[0]) != "pos")), rebuild

    def labels(self) -> Evaluate | None:
        """Labels in the graphs, by the names of the outputs or as ``y``."""
        return Labels(None, "mse")

    def dicts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[dict[str, Any]]:
        """The arguments that are dicts, and those in which graphs keep their attributes."""
        graphs = [value for value in super().split(args, kwargs)[0].values() if is_graph(value)]
        return [*super().dicts(args, kwargs), *(store._mapping for graph in graphs for store in graph.stores)]

    def stack(self, inputs: Named, rotated: Mapping[str, Tensor]) -> tuple[Named, Part] | None:
        """Copies side by side in one bigger batch; only where something tells the graphs of a batch apart."""
        together = join(inputs, rotated)
        if together is None:
            return None
        count = len(next(iter(rotated.values())))

        def part(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            for name, value in outputs.items():
                if value.ndim == 0 or len(value) % count:
                    found = f"output {name!r} of shape {tuple(value.shape)} for {count} copies of a batch"
                    raise ValueError(f"{found}: pass stacked=False, or give an entry per node, edge or graph")
            return {n: v.reshape(count, len(v) // count, *v.shape[1:]) for n, v in outputs.items()}

        return together, part

    def cut(self, inputs: Named, structures: Structures, chosen: Tensor) -> Named:
        """The chosen graphs of a batch, as PyG itself takes it apart; tensors beside it by their lengths."""
        held = {label: value for label, value in inputs.items() if isinstance(value, Held)}
        beside = {
            n: v for n, v in inputs.items() if n not in held and all(n not in one.places for one in held.values())
        }
        if structures.index is None:
            raise CannotCut
        names = GraphNames.usual(beside)
        found = cut_graphs(beside, chosen, names, structures.index)
        for label, one in held.items():
            graphs = one.rebuilt(inputs).index_select(chosen.tolist())
            kept, values = Held.of(Batch.from_data_list(graphs), label.strip("<>"), found)
            if values.keys() != one.places.keys():
                raise CannotCut
            found.update({**values, label: kept})
        return found

    def structures(self, inputs: Named, schema: Schema, center: str | Tensor) -> Structures | None:
        """The graphs of a batch; of a call with tensors, what their names show."""
        if any(isinstance(value, Held) for value in inputs.values()):
            return structures_of(inputs, schema, center)
        return None

    def infer(self, inputs: Named, raw: Any, declared: Schema | None) -> Schema:
        """``pos`` is a point and ``y`` a label, as everywhere in PyG; names and shapes tell the rest."""
        known = declared or Schema({}, {})
        inputs_known = {**defined(inputs), **known.inputs}
        outputs = dict(known.outputs)
        if self._outputs is not None:
            raw = self._chosen(raw, self._outputs)
            outputs = {**{name: rep for name, rep in self._outputs.items() if rep is not None}, **outputs}
        require_whole_shifts_declared(inputs, inputs_known)
        partly = replace(known, inputs=inputs_known, outputs=outputs)
        return Schema.infer(inputs, new_outputs(raw, inputs, list(outputs)), partly)

    @staticmethod
    def _chosen(raw: Any, names: Mapping[str, Any]) -> Named:
        values = all_outputs(raw, list(names))
        missing = [name for name in names if name not in values]
        if missing:
            raise EquivProbeError(f"outputs {sorted(values)}", f"those named: {missing}", "attach(model, outputs=...)")
        return {name: values[name] for name in names}


def defined(inputs: Named, *, labels: bool = True) -> dict[str, Representation]:
    """What PyG's own conventions say about the tensors of a call."""
    places = {name: held for held in inputs.values() if isinstance(held, Held) for name in held.places}
    found: dict[str, Representation] = {}
    for name, value in inputs.items():
        if not (dense(value) and value.is_floating_point()):
            continue
        held = places.get(name)
        if plain(name) == "pos" and value.shape[-1:] == (3,):
            found[name] = reps.point
        elif held is not None and ((labels and plain(name) in LABELS) or (value.ndim == 1 and _numbers(held, name))):
            found[name] = reps.fixed
    return found


def _numbers(held: Held, name: str) -> bool:
    """Whether an attribute ``(L,)`` of a batch holds plain numbers: its graphs' shares are no Cartesian components."""
    rows = held.bookkeeping(name, "_slice_dict")
    return dense(rows) and set(rows.diff().tolist()) not in ({3}, {6}, {9})


def require_whole_shifts_declared(inputs: Named, known: Mapping[str, Any]) -> None:
    """Raise EquivProbeError for shifts of edges that may be counts of images: small whole numbers. Waits, once."""
    for name, value in inputs.items():
        if name in known or plain(name) not in _SHIFTS or not (dense(value) and value.is_floating_point()):
            continue
        size = value.detach().abs()
        whole = (size == size.round()).all() & (size.amax() <= 2) & (size > 0).any() if size.numel() else None
        if whole is not None and bool(whole):
            raise EquivProbeError(
                f"inputs[{name!r}] of small whole numbers, which could be counts of images or Cartesian vectors",
                "a declaration",
                f'ep.Schema(inputs={{"{name}": ep.fixed}}, ...) for counts, ep.vector for vectors',
            )
