"""Are rotations that a sampler draws as likely once they are taken along with a rotation of its noise?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scipy import stats

from equiv_probe.estimation.sobolev import p_value, sobolev
from equiv_probe.rotations.haar import haar

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.generative.drawn_rotations import Way

NOT_AS_LIKELY = 1e-3
"""Drawn rotations with a p-value below this are not taken along: in another frame they are not as likely."""

COPIES = 200
"""Sets of randomly re-framed axes with which the drawn axes are compared."""


def chance_of_law(matrices: Tensor, way: Way) -> float:
    """p-value of the hypothesis that independent rotations ``(K, 3, 3)`` are as likely when they go along in a way.

    For ``g R`` and ``R g⁻¹`` that is Haar; for ``g R g⁻¹`` an axis in all directions alike is enough, at any angle.
    """
    proper = matrices * torch.linalg.det(matrices).sign()[:, None, None]
    return 1.0 if way == "same" else _isotropy(proper) if way == "conjugate" else _uniformity(proper)


def _uniformity(proper: Tensor) -> float:
    """Of degrees 1 and 2 the smaller p-value, times two: every recipe in use that is not Haar shows at one of them."""
    return min(1.0, 2 * min(p_value(sobolev(proper, degree), degree) for degree in (1, 2)))


def _isotropy(proper: Tensor) -> float:
    """Whether axes prefer no direction: the means of R and of R ⊗ R, beside those of ``h_k R_k h_k⁻¹`` with random h.

    Squared distances from the mean over random ``h``, which keep every angle; their upper tail by a gamma law of the
    same mean and variance.
    """
    generator = torch.Generator().manual_seed(0)
    means = [_powers(proper)]
    for _ in range(COPIES):
        h = haar(len(proper), generator)
        means.append(_powers(h @ proper @ h.mT))
    stacked = torch.stack(means)
    squares = (stacked - stacked[1:].mean(0)).square().sum(1)
    mean, variance = float(squares[1:].mean()), float(squares[1:].var())
    if variance <= 0:
        return 1.0
    return float(stats.gamma.sf(float(squares[0]), mean**2 / variance, scale=variance / mean))


def _powers(rotations: Tensor) -> Tensor:
    """Means of R and of R ⊗ R, ``(90,)``."""
    second = torch.einsum("kab,kcd->abcd", rotations, rotations) / len(rotations)
    return torch.cat([rotations.mean(0).flatten(), second.flatten()])
