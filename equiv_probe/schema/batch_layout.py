"""How a batch is laid out: which input shows it, and which hold the batch index, the mask and the edges."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.schema.usual_names import BATCH_INDICES, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.schema.schema import Schema

_MASKS = {"mask", "node_mask", "atom_mask", "atom37_mask", "atom14_mask", "res_mask", "residue_mask"}
_EDGES = {"edge_index", "edge_idx"}


def resolve_batch(schema: Schema, inputs: Mapping[str, Any]) -> Schema:
    """The schema with the batch index and the mask that the inputs' names show, where it does not declare them."""
    shown = primary(schema, inputs)
    value = inputs[shown]
    atoms = value.shape[: value.ndim - len(schema.inputs[shown].event_shape)]
    if schema.inputs[shown].is_whole:
        return schema
    for name, other in inputs.items():
        if not isinstance(other, torch.Tensor) or other.is_floating_point():
            continue
        if schema.batch is None and len(atoms) == 1 and plain(name) in BATCH_INDICES and other.shape == atoms:
            schema = replace(schema, batch=name)
    if schema.mask is None and len(atoms) >= 2:
        masks = [(v.ndim, n) for n, v in inputs.items() if isinstance(v, torch.Tensor) and _is_mask(n, v, atoms)]
        if masks:  # the most detailed: of atoms rather than of residues
            schema = replace(schema, mask=max(masks, key=lambda found: found[0])[1])
    return schema


def _is_mask(name: str, value: Tensor, atoms: torch.Size) -> bool:
    """Whether an input says which of the atoms ``(B, N)`` or ``(B, N, A)`` are there, also as numbers 0 and 1."""
    return plain(name) in _MASKS and value.ndim >= 2 and value.shape == atoms[: value.ndim]


def primary(schema: Schema, inputs: Mapping[str, Any]) -> str:
    """The input that shows how the batch is laid out: the first point, else the first grid, else the first to rotate.

    Raises:
        EquivProbeError: there is none.
    """
    rotating = [n for n, rep in schema.inputs.items() if rep.event_shape and isinstance(inputs.get(n), torch.Tensor)]
    if not rotating:
        raise EquivProbeError(
            f"inputs {sorted(inputs)}, none of which rotates",
            f"one of {list(schema.inputs)}",
            "ep.Schema(inputs={...})",
        )
    by_rank = sorted(rotating, key=lambda name: (not schema.inputs[name].is_affine, not schema.inputs[name].is_whole))
    return by_rank[0]


def leading(inputs: Mapping[str, Any], schema: Schema, name: str) -> int | None:
    """How many structures a dense batch has; None where there is one structure. A grid shows it by itself."""
    grids = [n for n, rep in schema.inputs.items() if rep.is_whole and isinstance(inputs.get(n), torch.Tensor)]
    shown = inputs[grids[0] if grids else name]
    axes = len(schema.inputs[grids[0]].event_shape) + 1 if grids else len(schema.inputs[name].event_shape) + 2
    return len(shown) if shown.ndim >= axes else None


def edge_owners(inputs: Mapping[str, Any], index: Tensor) -> Tensor | None:
    """Structure of each edge, ``(E,)``, from that of each node; None where there are no edges."""
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and not value.is_floating_point():
            if plain(name) in _EDGES and value.ndim == 2 and len(value) == 2:
                return index[value[0].long()]
            if plain(name) == "idx_i" and value.ndim == 1:
                return index[value.long()]
    return None
