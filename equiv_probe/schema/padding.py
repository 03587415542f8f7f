"""Which entries of a dense batch are padding: they stay where they are when structures rotate, as in rotated data."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
