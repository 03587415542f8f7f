"""How many nodes, edges and graphs there are in a call, as far as the host knows without asking the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from equiv_probe_pyg.graphs import INDEX_NAMES, Held, dense, graphs_in, plain

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.schema.schema import Named


class CannotJoin(Exception):  # noqa: N818 - no error: copies then go one by one
    """Some part of a call cannot be repeated side by side."""


@dataclass
class Sizes:
    """How long the tensors of a call are, as far as the host knows."""

    nodes: set[int] = field(default_factory=set)
    edges: set[int] = field(default_factory=set)
    graphs: set[int] = field(default_factory=set)
    increment: int | Tensor | None = None
    """Of a batch index, from one copy to the next; where the host does not know it, it stays on the device."""

    def known(self, length: int) -> bool:
        """Whether that is the number of something that is repeated."""
        return length in self.nodes | self.edges | self.graphs

    @classmethod
    def of(cls, inputs: Named) -> Sizes:
        """Look at the inputs of one call.

        Raises:
            CannotJoin: nothing says which node belongs to which graph.
        """
        found = cls()
        for name, value in inputs.items():
            if isinstance(value, Held):
                found.graphs |= {n for n in (graphs_in(value.graph),) if n is not None}
            elif isinstance(value, int) and plain(name) in {"num_graphs", "batch_size"}:
                found.graphs.add(value)
            elif dense(value) and value.ndim:
                found._note(plain(name), value)
        if not found.nodes and not found.graphs:
            raise CannotJoin
        if len(found.graphs) == 1:
            (found.increment,) = found.graphs
        return found

    def _note(self, name: str, value: Tensor) -> None:
        """What the length of a tensor of that name tells."""
        if name == "ptr":
            self.graphs.add(len(value) - 1)
        elif name in {"cell", "cells"} and value.ndim == 3:
            self.graphs.add(len(value))
        elif name in INDEX_NAMES and value.ndim == 1:
            self.nodes.add(len(value))
            if self.increment is None:
                self.increment = value.max() + 1 if len(value) else 0
        elif "edge_index" in name:
            self.edges.add(value.shape[-1])
