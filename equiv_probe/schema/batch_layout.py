"""How a batch is laid out: batch index, mask and edges; which entries are padding, and which structures the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.schema.usual_names import BATCH_INDICES, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation
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


def atoms_of(points: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Where a dense batch holds atoms, of the shape of its mask, found without waiting for the device.

    Masks have other uses (which atoms are predicted, which are given), and what they leave out is an atom all the same
    unless it looks like padding: all that is left out of a structure lies in one place, which is zero, or shared by
    two entries at least, or by those of another structure.

    Args:
        points: ``(*mask.shape, ...)``.
        mask: true, or not zero, for what counts, ``(B, N)`` or ``(B, N, A)``.

    Returns:
        None where there are no points, or no mask of them.
    """
    if points is None or mask is None or not mask.numel() or points.shape[: mask.ndim] != mask.shape:
        return None
    rows = points.detach().nan_to_num(0.0, 0.0, 0.0).reshape(*mask.shape, -1).flatten(1, mask.ndim - 1)
    empty = (mask == 0).flatten(1)
    count = empty.sum(1)
    place = rows.take_along_dim(empty.long().argmax(1)[:, None, None], 1)  # (B, 1, d)
    alike = ((rows == place).all(-1) | ~empty).all(1)
    most = count.argmax()[None]
    as_elsewhere = (place == place.index_select(0, most)).flatten(1).all(1) & (count.index_select(0, most) > 1)
    is_padding = alike & ((count > 1) | as_elsewhere | (place == 0).flatten(1).all(1))
    return (mask != 0) | ~is_padding.reshape(-1, *(1,) * (mask.ndim - 1))


def beside(atoms: Tensor | None, value: Tensor, rep: Representation) -> Tensor | None:
    """Atoms as :func:`atoms_of` gives them, broadcastable against values of atoms; None for values of anything else."""
    lead = value.shape[: value.ndim - len(rep.event_shape)]
    if atoms is None or rep.is_whole or lead[: atoms.ndim] != atoms.shape:
        return None
    return atoms.reshape(*atoms.shape, *(1,) * (value.ndim - atoms.ndim)).to(value.device)


def first_equal(positions: Tensor, index: Tensor | None, count: int) -> Tensor:
    """For every structure the first of the same positions, ``(count,)``, without waiting for the device.

    Guidance without a classifier puts structures into a batch more than once: these get one rotation.

    Positions are ``(B, N, 3)``, or ``(N, 3)`` with the ``index`` of each node's structure. They are compared by a sum
    of their bits, which is exact in any order. Should two others have the same sum, they share a rotation too: that is
    no bias.

    >>> twice = torch.tensor([[[1.0, 0, 0]], [[0, 2.0, 0]], [[1.0, 0, 0]]])
    >>> first_equal(twice, None, 3)
    tensor([0, 1, 0])
    """
    bits = positions.detach().double().contiguous().view(torch.int64).flatten(1)
    odd = torch.arange(bits.shape[1], device=bits.device) * 0x5851F42D4C957F2D + 0x14057B7EF767814F
    sums = (bits * odd).sum(1)
    if index is not None:
        sums = sums.new_zeros(count).index_add_(0, index, sums)
    ordered, order = sums.sort(stable=True)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    places = torch.arange(count, device=sums.device)
    first = order[torch.where(starts, places, 0).cummax(0).values]
    return torch.empty_like(order).scatter_(0, order, first)
