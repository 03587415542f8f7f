"""One sample of anybody's data as tensors by name: where its positions are, and which atoms make a structure."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations import representation as reps
from equiv_probe.schema.structures import Structures
from equiv_probe.schema.usual_names import usual

if TYPE_CHECKING:
    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.schema import Schema

_INDICES = {"batch", "idx_m", "batch_idx", "batch_index", "graph_index"}
_MASKS = {"mask", "node_mask"}
_CELLS = {"cell", "cells", "lattice", "box"}
_MORE_NAMES = dict.fromkeys(("dy", "neg_dy", "normal", "normals", "edge_vectors"), reps.vector)
_DEPTH = 4


def read(sample: Any) -> dict[str, Tensor]:
    """The tensors, arrays and numbers in a sample, by dotted name, as they are: nothing is copied.

    Args:
        sample: a tensor (named ``pos``), mapping, tuple (``"0"``, ``"1"``, …), or an object with ``to_dict()``, with
            ``keys()`` and indexing, or with attributes.
    """
    found: dict[str, Tensor] = {}
    _walk(sample, "", found, 0)
    return found


def _walk(value: Any, name: str, found: dict[str, Tensor], depth: int) -> None:
    if isinstance(value, Tensor):
        found[name or "pos"] = value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        found[name or "pos"] = torch.as_tensor(value)
    elif isinstance(value, (numbers.Real, np.floating, np.integer)) and not isinstance(value, bool):
        found[name] = torch.tensor(float(value), dtype=torch.float64)
    elif depth < _DEPTH:
        for key, entry in _entries(value):
            _walk(entry, f"{name}.{key}" if name else str(key), found, depth + 1)


def _entries(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if hasattr(value, "_asdict"):
        return list(value._asdict().items())
    if isinstance(value, (tuple, list)):
        return list(enumerate(value)) if len(value) <= 32 else []
    if callable(getattr(value, "to_dict", None)):
        return _entries(value.to_dict())
    if not isinstance(value, type) and not callable(value):
        return list(getattr(value, "__dict__", {}).items())
    return []


def plain(name: str) -> str:
    """The last part of a dotted name, in lower case, without leading underscores."""
    return name.rpartition(".")[2].lower().lstrip("_")


def representation(name: str, value: Tensor, schema: Schema | None) -> Representation | None:
    """How an entry rotates: as the schema says, or else by its name; None where neither knows."""
    if schema is not None:
        declared = {**schema.inputs, **schema.outputs, **schema.targets}
        for key in (name, name.rpartition(".")[2]):
            if key in declared:
                return declared[key]
    if not value.is_floating_point():
        return reps.fixed
    key, shape = plain(name), tuple(value.shape)
    known = usual(key, shape) or _MORE_NAMES.get(key)
    if known is None or not known.fits(shape):
        return None
    return None if key in _CELLS and shape[-2:] != (3, 3) else known


def has_positions(values: Mapping[str, Tensor], schema: Schema | None) -> bool:
    """Whether a sample has positions, as :meth:`Layout.of` looks for them."""
    try:
        Layout.of(values, schema)
    except EquivProbeError:
        return False
    return True


@dataclass(frozen=True)
class Layout:
    """Where the positions of a sample are.

    Attributes:
        name: of the positions.
        atoms: for each structure the places of its atoms among the flattened positions.
        structures: which rotation belongs to which entry.
    """

    name: str
    atoms: tuple[Tensor, ...]
    structures: Structures

    def points(self, values: Mapping[str, Tensor]) -> list[Tensor]:
        """The positions of each structure, ``(N, 3)``."""
        flat = values[self.name].detach().reshape(-1, 3)
        return [flat[atoms.to(flat.device)] for atoms in self.atoms]

    @classmethod
    def of(cls, values: Mapping[str, Tensor], schema: Schema | None = None) -> Layout:
        """Find the positions: those of the schema, or of a usual name, or the first floating ``(..., N, 3)``.

        Raises:
            EquivProbeError: there are none.
        """
        shaped = {n: v for n, v in values.items() if v.is_floating_point() and v.ndim >= 2 and v.shape[-1] == 3}
        points = [n for n, v in shaped.items() if isinstance(representation(n, v, schema), reps.Point)]
        unknown = [n for n, v in shaped.items() if representation(n, v, schema) is None]
        name = next(iter(points or unknown), None)
        if name is None:
            raise EquivProbeError(
                f"a sample with { ({n: tuple(v.shape) for n, v in values.items()}) }",
                "positions of shape (N, 3)",
                'check_augmentation(..., schema=ep.Schema(inputs={"<name>": ep.point}, outputs={}))',
            )
        value = values[name]
        many = value.shape[:-1].numel()
        if value.ndim == 2:
            index = _index(values, many, schema)
            if index is None:
                return cls(name, (torch.arange(many),), Structures("one", 1))
            count = int(index.max()) + 1
            atoms = tuple((index == u).nonzero()[:, 0] for u in range(count))
            return cls(name, atoms, Structures("index", count, index=index, edges=_edges(values, index)))
        rows = torch.arange(many).reshape(len(value), -1)
        mask = next((v for n, v in values.items() if _is_mask(n, v, value, schema)), None)
        held = (
            torch.ones_like(rows, dtype=torch.bool) if mask is None else mask.detach().cpu().bool().reshape(rows.shape)
        )
        atoms = tuple(row[keep] for row, keep in zip(rows, held, strict=True))
        return cls(name, atoms, Structures("leading", len(value)))


def _is_mask(name: str, value: Tensor, positions: Tensor, schema: Schema | None) -> bool:
    named = name == schema.mask if schema is not None and schema.mask else plain(name) in _MASKS
    return named and value.shape == positions.shape[:-1]


def _index(values: Mapping[str, Tensor], count: int, schema: Schema | None) -> Tensor | None:
    declared = schema.batch if schema is not None else None
    for name, value in values.items():
        named = name == declared or (declared is None and plain(name) in _INDICES)
        if named and not value.is_floating_point() and value.shape == (count,):
            return value.detach().cpu().long()
    return None


def _edges(values: Mapping[str, Tensor], index: Tensor) -> Tensor | None:
    edges = next((v for n, v in values.items() if plain(n) == "edge_index" and v.ndim == 2 and len(v) == 2), None)
    return None if edges is None else index[edges[0].detach().cpu().long()]


def generic_sample() -> dict[str, Tensor]:
    """A chiral cluster of six atoms in a skew cell, with every usual label, all generic, float64 (eV and Å)."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    stress = draw(3, 3)
    return {
        "pos": 2 * draw(6, 3),
        "z": torch.tensor([6, 1, 7, 8, 9, 17]),
        "energy": draw(1),
        "forces": draw(6, 3),
        "dipole": draw(3),
        "cell": 10 * torch.eye(3, dtype=torch.float64) + draw(3, 3),
        "stress": stress + stress.mT,
    }
