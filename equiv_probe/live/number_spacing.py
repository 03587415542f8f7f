"""How finely a network works here and now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

TENSOR_FLOAT = 2.0**-10
"""Spacing of numbers that a GPU multiplies where it is allowed to take TF32 for float32."""


def spacing(network: nn.Module, device: torch.device) -> float:
    """Spacing of numbers, relative to one, of the coarsest type that a network works in here and now."""
    types = {p.dtype for p in network.parameters() if p.is_floating_point()} or {torch.get_default_dtype()}
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        types.add(torch.get_autocast_dtype(kind))
    coarsest = max(float(torch.finfo(one).eps) for one in types)
    allowed = kind == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return max(coarsest, TENSOR_FLOAT) if allowed and torch.float32 in types else coarsest
