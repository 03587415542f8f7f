"""The order in which a tensor lies in memory: a model that calls ``view`` may depend on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def laid_out_as(value: Tensor, like: Tensor) -> Tensor:
    """The same numbers, in memory in the order of another tensor's: what can be ``view``ed of one can be of the other.

    Args:
        value: of as many axes as ``like``.
        like: such as a batch in ``channels_last_3d``.

    >>> import torch
    >>> like = torch.empty(2, 3, 4, 4, 4, memory_format=torch.channels_last_3d)
    >>> laid_out_as(torch.rand(6, 3, 4, 4, 4), like).is_contiguous(memory_format=torch.channels_last_3d)
    True
    """
    strides = like.stride()
    if value.ndim != like.ndim or value.stride() == strides or 0 in strides:
        return value
    order = sorted(range(like.ndim), key=lambda axis: -strides[axis])
    back = sorted(range(like.ndim), key=order.__getitem__)
    return value.permute(order).contiguous().permute(back)
