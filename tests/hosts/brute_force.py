"""Numbers that no code of this project made: plain sums over 200 Haar rotations, and the bits of weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

ROTATIONS = 200
TOLERANCE = 0.2
"""Of ``L_equiv`` from 200 Haar rotations on each side: its standard error is √(2/200) = 0.1 for one number drawn from a
normal distribution, less for the mean over atoms; two of them differ by less than 0.2 in 5 of 6 cases at worst."""


def haar(count: int = ROTATIONS, seed: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rotations, ``(K, 3, 3)``."""
    return torch.tensor(Rotation.random(count, random_state=seed).as_matrix(), dtype=dtype)


def variance(rotated_back: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float64) -> float:
    """``L_equiv`` of what a network says, rotated back, for each rotation ``(3, 3)``."""
    values = torch.stack([rotated_back(g).detach().double() for g in haar(dtype=dtype)])
    return float(values.var(0).mean())


def bits(model: nn.Module) -> str:
    """A digest of all weights and buffers."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


STRETCH = (1.2, 1.0, 0.9)


def stretched(value: Tensor) -> Tensor:
    """Coordinates stretched along the axes: whoever is given these is not equivariant."""
    return value * torch.tensor(STRETCH, dtype=value.dtype)


def agree(found: float, expected: float, *, rel: float = TOLERANCE, smallest: float = 0.0) -> None:
    """Whether a number of ours is that of brute force; both are printed, for the table in the README."""
    print(f"measured {found:.4g}, brute force {expected:.4g}")
    assert abs(found - expected) <= max(rel * abs(expected), smallest)


def measured(probe: Any, name: str) -> float:
    """``L_equiv`` of an output or loss by the end of its name."""
    found = {key: v for key, v in probe.compute(window=False).items() if key.endswith(f"/{name}/L_equiv")}
    assert len(found) == 1, sorted(probe.compute(window=False))
    return next(iter(found.values()))
