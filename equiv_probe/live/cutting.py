"""A few structures of a batch, cut out of all of its tensors.

Rows of whatever a batch counts (structures, atoms, edges) stay in their order, and numbers of atoms and of structures
are counted anew. What cannot be cut so, since the length of a tensor does not tell what it counts, is not cut at all.

>>> edges, index = torch.tensor([[0, 3], [1, 4]]), torch.tensor([0, 0, 1, 2, 2])
>>> batch = {"pos": torch.zeros(5, 3), "batch": index, "edge_index": edges}
>>> cut = cut_graphs(batch, torch.tensor([0, 2]), GraphNames.usual(batch), index)
>>> cut["batch"], cut["edge_index"].tolist()
(tensor([0, 0, 1, 1]), [[0, 2], [1, 3]])
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.schema.usual_names import BATCH_INDICES, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.schema.schema import Named
    from equiv_probe.schema.structures import Structures

FEW = 8
"""Structures of a part; half as many of a batch that has not twice as many. Of a smaller one the whole is taken."""
_NODE_NUMBERS = {"edge_index", "edge_idx", "idx_i", "idx_j", "senders", "receivers", "row", "col", "src", "dst"}
_COUNTS = {"num_graphs", "batch_size"}


class CannotCut(Exception):  # noqa: N818 - no error: then the whole batch is measured
    """Nobody knows which entries of a batch belong to which structure."""


def chosen_structures(count: int, seed: int, number: int) -> Tensor:
    """Some of so many structures, ``(S,)``, drawn at random without any random state: by the seed and a number.

    Raises:
        CannotCut: there are not many.
    """
    if count < FEW:
        raise CannotCut
    few = FEW if count >= 2 * FEW else FEW // 2
    return torch.tensor(sorted(random.Random(f"{seed}/{number}").sample(range(count), few)))


def cut_dense(inputs: Named, structures: Structures, chosen: Tensor) -> Named:
    """Of what has as many entries as there are structures, those of the chosen."""
    count = structures.count
    counted = {n: v for n, v in inputs.items() if isinstance(v, torch.Tensor) and v.ndim and len(v) == count}
    return {**inputs, **{name: value[chosen.to(value.device)] for name, value in counted.items()}}


@dataclass(frozen=True)
class GraphNames:
    """What the integers of a batch of graphs number, by the names of its tensors.

    Attributes:
        structures: numbers of structures, by node.
        nodes: numbers of nodes along the last axis, by edge.
        pointers: where each structure begins, ``(B + 1,)``.
        repeated: values of structures that lie one after the other, and how many each has.
    """

    structures: frozenset[str]
    nodes: tuple[str, ...]
    pointers: frozenset[str] = frozenset()
    repeated: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def usual(cls, inputs: Named) -> GraphNames:
        """By usual names."""
        whole = [n for n, v in inputs.items() if isinstance(v, torch.Tensor) and not v.is_floating_point()]
        return cls(
            frozenset(name for name in whole if plain(name) in BATCH_INDICES),
            tuple(name for name in whole if plain(name) in _NODE_NUMBERS),
            frozenset(name for name in whole if plain(name) == "ptr"),
        )


def cut_graphs(inputs: Named, chosen: Tensor, names: GraphNames, index: Tensor) -> Named:
    """The chosen structures of a batch of graphs.

    Args:
        inputs: by name.
        chosen: ``(S,)``.
        names: what numbers what.
        index: structure of each node, ``(N,)``.

    Raises:
        CannotCut: a tensor whose length is that of nothing, or of two things.
    """
    cut = _Cut(inputs, chosen.to(index.device), names, index.long())
    return {n: cut.tensor(n, v) if isinstance(v, torch.Tensor) else cut.other(n, v) for n, v in inputs.items()}


class _Cut:
    """Which rows stay; arguments as for :func:`cut_graphs`."""

    def __init__(self, inputs: Named, chosen: Tensor, names: GraphNames, index: Tensor) -> None:
        self._chosen, self._names = chosen, names
        self._count, self._kept = int(index.max()) + 1, torch.isin(index, chosen)
        self._numbers = self._kept.cumsum(0) - 1
        self._rows: dict[int, Tensor | None] = {}
        self._note(self._count, chosen)
        self._note(len(index), self._kept.nonzero().flatten())
        for name in names.nodes:
            ends = inputs[name].long().reshape(-1, inputs[name].shape[-1])
            self._note(ends.shape[1], self._kept[ends[0]].nonzero().flatten())

    def _note(self, length: int, rows: Tensor) -> None:
        known = self._rows.setdefault(length, rows)
        if known is not None and not torch.equal(known, rows):
            self._rows[length] = None

    def _of(self, length: int) -> Tensor:
        """The rows that stay of so many."""
        found = self._rows.get(length)
        if found is None:
            raise CannotCut
        return found

    def other(self, name: str, value: Any) -> Any:
        """What is no tensor."""
        if isinstance(value, int) and not isinstance(value, bool) and plain(name) in _COUNTS:
            return len(self._chosen)
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        raise CannotCut

    def tensor(self, name: str, value: Tensor) -> Tensor:
        """The rows of a tensor that stay."""
        names = self._names
        if value.ndim == 0:
            return value
        if name in names.structures:
            return torch.searchsorted(self._chosen, value[self._kept].long()).to(value.dtype)
        if name in names.nodes:
            return self._numbers[value.long()[..., self._of(value.shape[-1])]].to(value.dtype)
        if name in names.pointers:
            return torch.cat([value[:1], value.diff()[self._chosen].cumsum(0).to(value.dtype)])
        if name in names.repeated:
            rows = value.reshape(self._count, names.repeated[name], *value.shape[1:])
            return rows[self._chosen].flatten(0, 1)
        if _is_numbering(name, value):
            raise CannotCut
        return value[self._of(len(value))]


def _is_numbering(name: str, value: Tensor) -> bool:
    """Whether a tensor numbers something that nobody knows; what is counted within each structure stays as it is."""
    whole = not value.is_floating_point() and value.dtype != torch.bool
    numbers = "index" in plain(name) or plain(name).startswith("idx_")
    return whole and numbers and not name.endswith("_local")
