r"""Sobolev statistics on SO(3): are rotations Haar-distributed? Pure functions.

With ``χ_l`` the character of degree l, the statistic

    V_l = (2l+1)/K Σ_{k,k'} χ_l(g_k⁻¹ g_k') = K (2l+1) ‖mean_k D^l(g_k)‖²

is asymptotically χ² with ``(2l+1)²`` degrees of freedom if the rotations are independent and Haar (their Wigner
functions have mean 0, variance ``1/(2l+1)``, and are uncorrelated). It does not change if all rotations are multiplied
by one more, from the left or from the right, so that it can be had from relative rotations.

Source: Giné, Ann. Statist. 3 (1975) 1243 (Sobolev tests); Prentice, Biometrika 65 (1978) 169 (on SO(p)); Mardia and
Jupp, Directional Statistics (2000), sections 10.8 and 13.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scipy import stats

from equiv_probe.estimation.spectrum import character

if TYPE_CHECKING:
    from torch import Tensor


def sobolev(rotations: Tensor, degree: int, signs: Tensor | None = None) -> Tensor:
    """``V_l`` of the module's docstring of proper rotations, ``(..., K, 3, 3) -> (...)``.

    Determinants ``signs``, ``(..., K)``, multiply the terms, for the twisted half of O(3)'s functions.
    """
    count = rotations.shape[-3]
    chi = characters(rotations, rotations, degree)
    if signs is not None:
        chi = chi * signs[..., :, None] * signs[..., None, :]
    return (2 * degree + 1) / count * chi.sum((-2, -1))


def characters(first: Tensor, second: Tensor, degree: int) -> Tensor:
    """``χ_l(g_k⁻¹ g_k')``, ``(..., K, K')``."""
    cosine = (torch.einsum("...kij,...lij->...kl", first, second) - 1) / 2
    return character(torch.arccos(cosine.clamp(-1, 1)), degree)


def p_value(statistic: Tensor, degree: int) -> float:
    """How likely so large a ``V_l`` is, if the rotations are independent and Haar."""
    return float(stats.chi2.sf(float(statistic), (2 * degree + 1) ** 2))
