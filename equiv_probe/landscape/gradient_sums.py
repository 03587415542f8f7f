r"""Squared norms and the inner product of two gradients, without the bias that noise gives them; and their ratio.

A gradient ``ĝ_b = g + ε_b`` that was estimated from a block b of rotations has ``E‖ĝ_b‖² = ‖g‖² + E‖ε_b‖²``: its norm
is biased upward by its variance, and the cosine of two of them towards that of their noise. Blocks that are independent
have ``E⟨ĝ_a, ĝ_b⟩ = ‖g‖²``, so over B blocks

    ‖g‖² ≈ Σ_{a≠b} ⟨ĝ_a, ĝ_b⟩ / (B (B − 1))

is unbiased (a U-statistic: Hoeffding, Ann. Math. Statist. 19 (1948) 293), and negative now and then where the gradient
is smaller than its noise. It is kept as it is: clamped before averaging, it would be biased again. Its pseudo-values
over blocks (Arvesen, Ann. Math. Statist. 40 (1969) 2076) give error bars from three blocks on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.estimates import Estimate, Sums
from equiv_probe.live.capture import wide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from equiv_probe.estimation.estimates import Scale

KEYS = ("grad_norm_L_mean", "grad_norm_L_equiv", "grad_ratio", "grad_cosine")
"""What is logged."""


def products(mean: Sequence[Sequence[Tensor]], equiv: Sequence[Sequence[Tensor]]) -> Tensor:
    """Unbiased ``‖∇L_mean‖²``, ``‖∇L_equiv‖²`` and ``⟨∇L_mean, ∇L_equiv⟩`` from independent blocks.

    Args:
        mean: of each of B blocks, the gradient of ``L_mean`` by each parameter.
        equiv: likewise of ``L_equiv``.

    Returns:
        ``(B, 3)`` pseudo-values, whose mean is the estimate; from two blocks ``(1, 3)``, the estimate alone.

    Raises:
        EquivProbeError: fewer than two blocks.

    >>> a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
    >>> products([[a], [a + b], [a - b]], [[b], [b], [b]]).mean(0)
    tensor([1., 9., 0.], dtype=torch.float64)
    """
    blocks = len(mean)
    if blocks < 2:
        raise EquivProbeError("one block of gradients", "at least two, three for error bars", "n_blocks=3")
    grams = []
    for own in zip(*mean, *equiv, strict=True):  # of one parameter: of ``L_mean`` by all blocks, then of ``L_equiv``
        flat = wide(torch.stack([value.detach().reshape(-1) for value in own]))
        grams.append(flat @ flat.mT)
    gram = torch.stack(grams).sum(0)
    quarters = gram[:blocks, :blocks], gram[blocks:, blocks:], gram[:blocks, blocks:]
    return torch.stack([_pseudo_values(one) for one in quarters], -1)


def _pseudo_values(gram: Tensor) -> Tensor:
    """Of the mean of the entries off the diagonal, ``(B, B) -> (B,)``; of two blocks, ``(1,)``, the mean itself."""
    blocks = len(gram)
    off = gram - torch.diag(gram.diagonal())
    whole = off.sum() / (blocks * (blocks - 1))
    if blocks < 3:
        return whole[None]
    rest = (off.sum() - off.sum(0) - off.sum(1)) / ((blocks - 1) * (blocks - 2))
    return blocks * whole - (blocks - 1) * rest


def _of_squares(combination: tuple[float, float, float]) -> cached_property[Estimate]:
    return cached_property(lambda self: self._linear(combination))


def _root_of(square: cached_property[Estimate]) -> cached_property[Estimate]:
    return cached_property(lambda self: _root(square.__get__(self)))


def _root(square: Estimate) -> Estimate:
    low, high = (math.sqrt(max(end, 0.0)) if math.isfinite(end) else math.nan for end in (square.low, square.high))
    if square.value <= 0 or math.isnan(square.value):
        return Estimate(math.nan if square.value else 0.0, math.nan, low, high)
    root = math.sqrt(square.value)
    return Estimate(root, square.stderr / (2 * root), low, high)


@dataclass(frozen=True)
class GradientSums:
    """Two gradients' squared norms and inner product as mergeable sums over units; ``+`` merges.

    A unit is a block's pseudo-value, or a whole measurement of two blocks.

    Attributes:
        sums: of ``x = (‖∇L_mean‖², ‖∇L_equiv‖², ⟨∇L_mean, ∇L_equiv⟩)``, of ``x xᵀ``, and how many there are.
    """

    sums: Sums

    @classmethod
    def of(cls, x: Tensor) -> GradientSums:
        """Sum over units ``(B, 3)``."""
        count = torch.full((), float(len(x)), dtype=x.dtype, device=x.device)  # does not wait for the device
        return cls(Sums(x.sum(0), x.mT @ x, count))

    def __add__(self, other: GradientSums) -> GradientSums:
        return GradientSums(self.sums + other.sums)

    def finite(self) -> GradientSums:
        """Themselves where they are finite, nothing elsewhere; without waiting for the device."""
        flat = self.sums.flat()
        return GradientSums(Sums.from_flat(torch.where(flat.isfinite().all(), flat, torch.zeros_like(flat))))

    squared_mean = _of_squares((1.0, 0.0, 0.0))
    """``‖∇L_mean‖²``; negative where it is less than its noise."""
    squared_equiv = _of_squares((0.0, 1.0, 0.0))
    """``‖∇L_equiv‖²``, likewise."""
    inner = _of_squares((0.0, 0.0, 1.0))
    """``⟨∇L_mean, ∇L_equiv⟩``."""
    squared_total = _of_squares((1.0, 1.0, 2.0))
    """``‖∇L_total‖²``, likewise."""
    norm_mean = _root_of(squared_mean)
    """``‖∇L_mean‖``, NaN where the square is negative; the interval is the root of that of the square."""
    norm_equiv = _root_of(squared_equiv)
    """``‖∇L_equiv‖``, likewise."""
    norm_total = _root_of(squared_total)
    """``‖∇L_total‖``, likewise."""

    @property
    def ratio(self) -> Estimate:
        """``‖∇L_equiv‖ / ‖∇L_mean‖``, interval on the log scale; NaN where a square is negative."""
        return self._logged("grad_ratio", "log")

    @property
    def cosine(self) -> Estimate:
        """Of the angle between the two gradients; noise may take it beyond one. NaN where a square is negative."""
        return self._logged("grad_cosine", "linear")

    def tensors(self) -> dict[str, Tensor]:
        """The four numbers that are logged, each with ``_stderr``, as 0-d tensors without waiting for the device.

        Standard errors by the delta method over units; NaN of fewer than two.
        """
        m, e, c = (self.sums.first / self.sums.count).unbind()
        a, b = m.sqrt(), e.sqrt()  # NaN of what is negative
        ratio, cosine = b / a, c / (a * b)
        slopes = {
            KEYS[0]: (a, {0: 0.5 / a}),
            KEYS[1]: (b, {1: 0.5 / b}),
            KEYS[2]: (ratio, {0: -ratio / (2 * m), 1: ratio / (2 * e)}),
            KEYS[3]: (cosine, {0: -cosine / (2 * m), 1: -cosine / (2 * e), 2: 1 / (a * b)}),
        }
        pairs = ({key: value, f"{key}_stderr": self._stderr(slope)} for key, (value, slope) in slopes.items())
        return {name: one for pair in pairs for name, one in pair.items()}

    def _stderr(self, slopes: Mapping[int, Tensor | float]) -> Tensor:
        """Of a number with these slopes by the means of x, by place; other entries of x may be NaN, without labels."""
        n = self.sums.count
        mean = self.sums.first / n
        covariance = (self.sums.second / n - torch.outer(mean, mean)) / (n - 1)
        terms = [s * t * covariance[i, j] for i, s in slopes.items() for j, t in slopes.items()]
        return torch.stack(terms).sum().clamp(min=0).sqrt()

    def _linear(self, combination: tuple[float, float, float]) -> Estimate:
        n, used = float(self.sums.count), {k: factor for k, factor in enumerate(combination) if factor}
        value = sum(factor * float(self.sums.first[k]) for k, factor in used.items()) / n if n else math.nan
        return Estimate(value) if n < 2 else Estimate.with_interval(value, float(self._stderr(used)), n - 1)

    def _logged(self, key: str, scale: Scale) -> Estimate:
        found = self.tensors()
        return Estimate.with_interval(
            float(found[key]), float(found[f"{key}_stderr"]), float(self.sums.count) - 1, scale
        )
