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
from equiv_probe.schema.batch_layout import resolve_batch
from equiv_probe.schema.schema import Schema
from equiv_probe.schema.structures import Structures
from equiv_probe.schema.usual_names import plain, usual

if TYPE_CHECKING:
    from equiv_probe.representations.representation import Representation

_CELLS = {"cell", "cells", "lattice", "box"}
_MORE_NAMES = dict.fromkeys(("dy", "neg_dy", "normal", "normals", "edge_vectors"), reps.vector)
_DEPTH = 4


def read(sample: Any) -> dict[str, Tensor]:
    """The tensors, arrays and numbers in a sample, by dotted name, as they are: nothing is copied.

    A sample is a tensor (named ``pos``), mapping, tuple (``"0"``, ``"1"``, …), or an object with ``to_dict()``, with
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
    """Where the positions of a sample are, under which name, and which rotation belongs to which entry.

    ``atoms`` are, for each structure, the places of its atoms among the flattened positions.
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
        places = torch.arange(value.shape[:-1].numel())
        found = resolve_batch(_declared(name, values, schema), values)
        structures = Structures.of(values, found, "origin")
        if structures.index is not None:
            index = structures.index.cpu()
            count = int(index.max()) + 1
            edges = None if structures.edges is None else structures.edges.cpu()
            atoms = tuple((index == u).nonzero()[:, 0] for u in range(count))
            return cls(name, atoms, Structures("index", count, index=index, edges=edges))
        if structures.layout == "one":
            return cls(name, (places,), Structures("one", 1))
        mask = structures.mask
        held = torch.ones(value.shape[:-1]) if mask is None or mask.shape != value.shape[:-1] else mask.cpu()
        rows = zip(places.reshape(len(value), -1), held.reshape(len(value), -1), strict=True)
        return cls(name, tuple(row[keep != 0] for row, keep in rows), Structures("leading", len(value)))


def _declared(name: str, values: Mapping[str, Tensor], schema: Schema | None) -> Schema:
    """A schema of the positions alone, with the batch index and the mask that were declared, where they fit."""
    shape = values[name].shape[:-1]

    def fitting(given: str | None) -> str | None:
        return given if given is not None and given in values and values[given].shape == shape else None

    batch, mask = (None, None) if schema is None else (fitting(schema.batch), fitting(schema.mask))
    return Schema({name: reps.point}, {}, batch=batch, mask=mask)


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
