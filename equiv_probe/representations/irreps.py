"""Irreducible representations of O(3) in e3nn's basis: spherical harmonics and equivariant features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.interface import Representation, block_diagonal
from equiv_probe.representations.registry import maker

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Irreps(Representation):
    """A direct sum of irreducible representations of O(3) in e3nn's basis and axis order (needs the ``irreps`` extra).

    Args:
        irreps: as e3nn writes them, such as ``"1x0e + 1x2e"``.
    """

    irreps: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "event_shape", (int(self._e3nn().dim),))

    def _e3nn(self) -> Any:
        try:
            from e3nn import o3
        except ImportError as error:
            raise EquivProbeError("no e3nn", "e3nn for irreps", "pip install 'equiv-probe[irreps]'") from error
        return o3.Irreps(self.irreps)

    def matrix(self, rotation: Tensor) -> Tensor:
        """Wigner matrices in e3nn's basis, ``(*B, d, d)``.

        By ``D^l = Cᵀ (D^{l−1} ⊗ g) C`` with C the Clebsch-Gordan coefficients of ``(l−1) ⊗ 1 → l``: products alone, so
        that nothing waits for the device, unlike the Euler angles of e3nn's own.
        """
        wide = rotation if rotation.device.type == "mps" else rotation.double()
        sign = torch.linalg.det(wide).sign()[..., None, None]
        proper = wide * sign
        powers = [torch.ones_like(sign), proper]
        irreps = self._e3nn()
        for degree in range(2, max((ir.l for _, ir in irreps), default=0) + 1):
            joint = _clebsch_gordan(degree, wide.device, wide.dtype)
            powers.append(torch.einsum("abm,...ac,...bd,cdn->...mn", joint, powers[-1], proper, joint))
        blocks = [powers[ir.l] * (sign if ir.p < 0 else 1) for multiplicity, ir in irreps for _ in range(multiplicity)]
        return block_diagonal(blocks, wide).to(rotation.dtype)

    def __str__(self) -> str:
        return f'irreps("{self.irreps}")'


@cache
def _clebsch_gordan(degree: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Clebsch-Gordan coefficients of ``(l−1) ⊗ 1 → l``, ``(2l−1, 3, 2l+1)``, orthonormal in the last axis."""
    from e3nn import o3

    with torch.inference_mode(False):
        joint: Tensor = o3.wigner_3j(degree - 1, 1, degree, dtype=torch.float64)
        return (joint * math.sqrt(2 * degree + 1)).to(device, dtype)


@maker
def irreps(irreps: str) -> Irreps:
    """Irreducible representations of O(3) in e3nn's basis and order, ``(..., dim)``: spherical harmonics, features.

    Args:
        irreps: as e3nn writes them, such as ``"1x0e+1x2e"``.

    Raises:
        EquivProbeError: e3nn is not installed.
    """
    return Irreps(irreps)
