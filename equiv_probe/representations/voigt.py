"""Symmetric tensors of rank two as six components: stress, in any order of the components."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cache
from itertools import permutations
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.interface import Representation
from equiv_probe.representations.registry import maker

if TYPE_CHECKING:
    from torch import Tensor

_VOIGT_AXES = {"x": 0, "y": 1, "z": 2}
_SHEARS = permutations(("yz", "xz", "xy"))
USUAL_ORDERS = (*(" ".join(("xx yy zz", *s)) for s in _SHEARS), "xx xy xz yy yz zz", "xx xy yy xz yz zz")
"""Orders that codes have: the diagonal and then the shears in any order, ASE's first; the upper and lower triangle."""


@dataclass(frozen=True)
class Voigt(Representation):
    """A symmetric rank-2 tensor stored as six components: stress.

    Args:
        order: the components in order, such as ASE's ``"xx yy zz yz xz xy"``.
        shears: factor on the shears: 1 for the tensor's own, 2 for engineering strains, √2 for Mandel's form.
    """

    order: str = "xx yy zz yz xz xy"
    shears: float = 1.0
    event_shape: tuple[int, ...] = field(default=(6,), init=False, repr=False)

    def __post_init__(self) -> None:
        pairs = self.order.split()
        good = all(re.fullmatch("[xyz]{2}", pair) for pair in pairs)
        if not good or {"".join(sorted(pair)) for pair in pairs} != {"xx", "yy", "zz", "yz", "xz", "xy"}:
            raise EquivProbeError(
                f"Voigt order {self.order!r}",
                "six different components of a symmetric tensor",
                'ep.voigt("xx yy zz yz xz xy")',
            )
        if not (math.isfinite(self.shears) and self.shears):
            raise EquivProbeError(f"shears={self.shears!r}", "a factor: 1, or 2 for engineering strains")

    def matrix(self, rotation: Tensor) -> Tensor:
        """``(*B, 6, 6)``: ``s'_p = Σ_q M_pq s_q`` from ``s'_ij = g_ia g_jb s_ab``."""
        i, j, shears, scale = _voigt_constants(self.order, self.shears, rotation.device, rotation.dtype)
        rows, columns = rotation.index_select(-2, i), rotation.index_select(-2, j)
        direct = rows.index_select(-1, i) * columns.index_select(-1, j)
        crossed = rows.index_select(-1, j) * columns.index_select(-1, i)
        return (direct + crossed * shears) / scale * scale[:, None]

    def inverse(self, matrix: Tensor) -> Tensor:
        """``M(g)⁻¹ = D⁻¹ M(g)ᵀ D``, D = 2 over their factor squared on shears: orthogonal in the Mandel scaling."""
        _, _, shears, scale = _voigt_constants(self.order, self.shears, matrix.device, matrix.dtype)
        weight = (1 + shears) / scale.square()
        return matrix.mT * weight / weight[:, None]

    def __str__(self) -> str:
        return f'voigt("{self.order}"{"" if self.shears == 1 else f", shears={self.shears:.4g}"})'


@cache
def _voigt_constants(order: str, factor: float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Axes of the six pairs, one for shears, and the factors: kept, since copying would wait for the device."""
    pairs = order.split()
    with torch.inference_mode(False):  # a tensor made in inference mode could not be saved for a backward pass
        i, j = (torch.tensor([_VOIGT_AXES[pair[k]] for pair in pairs], device=device) for k in (0, 1))
        shears = (i != j).to(dtype)
        return i, j, shears, 1 + (factor - 1) * shears


@maker
def voigt(order: str = "xx yy zz yz xz xy", shears: float = 1.0) -> Voigt:
    """A symmetric tensor of rank two as six components, ``(..., 6)``: stress.

    Args:
        order: the components in order; ASE's by default.
        shears: factor on the shears: 1 for the tensor's own, 2 for engineering strains, √2 for Mandel's form.

    Raises:
        EquivProbeError: not the six different components of a symmetric tensor, or no factor.
    """
    return Voigt(order, shears)
