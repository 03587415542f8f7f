r"""``L_total = L_mean + L_equiv``: the replicate jackknife, for every convex loss.

With replicate means ``m_r = Σ_i w_i h(g_{ri})``, independent and each with mean ``Tf(x)``,

    L_total = mean_r Σ_i w_i ℓ(h_{ri}, y)
    L_mean  = R ℓ(m̄, y) − (R−1) mean_r ℓ(m̄₋r, y)
    L_equiv = L_total − L_mean.

For squared error this is exactly unbiased for every R ≥ 2 and every design; for other smooth convex losses the bias is
O(1/R²).

Of a finite group of N rotations, k may be drawn without replacement. Then ``E ℓ(m̄_k) = ℓ(Tf) + c (1/k − 1/N)`` to the
same order, exactly for squared error, and with ``f = 1 − k/N``

    L_mean  = ℓ(m̄) − (k−1) f (mean_r ℓ(m̄₋r) − ℓ(m̄)),

which is the plug-in for k = N, where nothing is left to chance, and the above for N → ∞. Variances carry the same f.

Sources: Quenouille, Biometrika 43 (1956) 353; Tukey, Ann. Math. Statist. 29 (1958) 614 (pseudo-values);
Busing, Meijer & van der Leeden, Stat. Comput. 9 (1999) 3 (groups of unequal size, needed where replicates are merged);
Cochran, Sampling Techniques (1977), § 2.6 (finite populations).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Jackknife:
    """Estimates and their pseudo-values, each ``(*U)`` and ``(G, *U)``, for G groups of replicates."""

    total: Tensor
    mean: Tensor
    pseudo_total: Tensor
    pseudo_mean: Tensor
    sizes: Tensor

    @classmethod
    def combined(cls, parts: Sequence[Jackknife], combine: Callable[[list[Tensor]], Tensor]) -> Jackknife:
        """One made of several of the same replicates, each of its fields from theirs."""
        names = ("total", "mean", "pseudo_total", "pseudo_mean")
        made = {name: combine([getattr(part, name) for part in parts]) for name in names}
        return cls(**made, sizes=parts[0].sizes)

    @property
    def equiv(self) -> Tensor:
        """``L_equiv = L_total − L_mean``, ``(*U)``."""
        return self.total - self.mean

    @property
    def pseudo_equiv(self) -> Tensor:
        """Pseudo-values of ``L_equiv``, ``(G, *U)``: their weighted mean is the estimate."""
        return self.pseudo_total - self.pseudo_mean

    def stderr(self, pseudo: Tensor) -> Tensor:
        """Jackknife standard error from pseudo-values ``(G, *U)``, as if there were one structure."""
        shape = (-1, *(1,) * (pseudo.ndim - 1))
        share = (self.sizes / self.sizes.sum()).to(pseudo).reshape(shape)
        center = (share * pseudo).sum(0)
        return ((pseudo - center).square() * share / (1 - share)).mean(0).sqrt()


def require_several(replicates: int) -> None:
    """Raise EquivProbeError unless there is more than one: leaving that out would leave nothing."""
    if replicates < 2:
        raise EquivProbeError("one replicate", "at least two (four for error bars)", "RotationPlan(..., replicates=4)")


def jackknife(
    losses: Tensor,
    loss_of_mean: Tensor,
    losses_left_out: Tensor,
    sizes: Tensor | None = None,
    population: int | None = None,
) -> Jackknife:
    """Decompose losses that were evaluated on the orbit, on its mean, and on its leave-one-out means.

    Args:
        losses: ``Σ_i w_i ℓ(h_{ri}, y)`` for every replicate (or its mean over a group of replicates), ``(G, *U)``.
        loss_of_mean: ``ℓ(m̄, y)``, ``(*U)``.
        losses_left_out: ``ℓ(m̄₋r, y)``, ``(G, *U)``.
        sizes: replicates in each group, ``(G,)``; None is one each.
        population: N, of which the G were drawn without replacement; None where they are independent.

    Returns:
        The estimates. ``E[mean] = ℓ(Tf, y)`` exactly for squared error, to O(1/R²) for smooth convex losses.

    Raises:
        EquivProbeError: fewer than two groups.
    """
    groups = len(losses)
    require_several(groups)
    sizes = losses.new_ones(groups) if sizes is None else sizes
    share = (sizes / sizes.sum()).to(losses, non_blocking=True).reshape(-1, *(1,) * (losses.ndim - 1))
    pseudo_mean = (loss_of_mean - (1 - share) * losses_left_out) / share
    total, mean = (share * losses).sum(0), (share * pseudo_mean).sum(0)
    if population is not None:
        fraction = 1 - groups / population
        scatter = fraction**0.5
        mean_of_sample = loss_of_mean + fraction * (mean - loss_of_mean)
        losses = total + scatter * (losses - total)
        pseudo_mean = mean_of_sample + scatter * (pseudo_mean - mean)
        mean = mean_of_sample
    return Jackknife(total, mean, losses, pseudo_mean, sizes)
