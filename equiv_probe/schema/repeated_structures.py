"""Structures that are in a batch more than once, as guidance without a classifier puts them: one rotation for all.

>>> twice = torch.tensor([[[1.0, 0, 0]], [[0, 2.0, 0]], [[1.0, 0, 0]]])
>>> first_equal(twice, None, 3)
tensor([0, 1, 0])
"""

from __future__ import annotations

import torch
from torch import Tensor


def first_equal(positions: Tensor, index: Tensor | None, count: int) -> Tensor:
    """For every structure the first of the same positions, ``(count,)``, without waiting for the device.

    Positions are ``(B, N, 3)``, or ``(N, 3)`` with the ``index`` of each node's structure. They are compared by a sum
    of their bits, which is exact in any order. Should two others have the same sum, they share a rotation too: that is
    no bias.
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
