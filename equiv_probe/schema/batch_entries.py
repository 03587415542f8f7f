"""Entries of a batch that are padding, which stays where it is, and structures that are there more than once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.representation import Representation


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
