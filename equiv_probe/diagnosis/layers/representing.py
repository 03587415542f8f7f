"""Which representation an activation has, by its samples at all rotations, and what rounding does to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.layers.carried import SCALAR, Carried, is_grid, without_order
from equiv_probe.diagnosis.layers.inference import BETTER, FAR_BETTER, MUCH_BETTER, best_of, fitted, layouts
from equiv_probe.estimation.verdict import AMPLIFIED, ROUND_OFF_FACTOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from equiv_probe.diagnosis.layers.measuring import Moments
    from equiv_probe.diagnosis.layers.sites import Site

ACCUMULATED = 4.0
"""Multiple of the spacing of a precision that sums leave of it."""
EQUIVARIANT = 0.999
"""Part that fitted matrices must explain of an activation to count as a representation that nobody thought of."""


class Representing:
    """Settles the representations of activations.

    Args:
        samples: of the activations, for each rotation.
        rotations: ``(K, 3, 3)``.
        precision: that the model works in.
        grids: whether the model's inputs are grids without interpolation.
    """

    def __init__(
        self, samples: Sequence[dict[int, Tensor]], rotations: Tensor, precision: torch.dtype, *, grids: bool
    ) -> None:
        self._samples, self._rotations, self._precision, self._grids = samples, rotations, precision, grids

    def settle(self, site: Site, moments: Moments) -> list[Carried]:
        """Choose an activation's representation; if it is a new one, or explains too little, those to look at again."""
        key = id(site)
        options = list(zip(moments.candidates[key], moments.excess(site), strict=True))
        limit = (ROUND_OFF_FACTOR * rounding(site, self._precision)) ** 2
        samples = self.stacked(site)
        carried, left = best_of(options, limit, FAR_BETTER if options[0][0].is_grid else BETTER)
        if left > limit and samples is not None:
            carried, left = self._with_layouts(site, samples, (carried, left), limit)
        site.carried, site.error = carried, math.sqrt(max(0.0, left))
        site.how = "declared" if carried is site.claimed else "inferred"
        places = [one for one, _ in options]
        if carried in places:
            site.mean = moments.means[key][places.index(carried)]
        disordered = without_order(site.shape) if left > limit and not carried.is_grid else []
        return [carried, *disordered] if disordered or site.mean is None else []

    def fit(self, site: Site) -> None:
        """Say that nothing explains an activation, unless matrices of no known kind do."""
        site.how, samples = "none", self.stacked(site)
        found = fitted(samples, self._rotations) if samples is not None else None
        if found is None:
            return
        site.fit, site.fit_is_enough = found.part, found.enough
        if found.enough and found.part > EQUIVARIANT:
            site.how, site.mean = "inferred", None
            site.carried = Carried(SCALAR.rep, named="an orthogonal representation, fitted")
            site.error = math.sqrt(max(0.0, 1 - found.part)) * site.error

    def stacked(self, site: Site) -> Tensor | None:
        """Samples of an activation at all rotations, ``(K, R, P, F)``; None of grids, and of what is too wide."""
        if self._grids and is_grid(site.shape):
            return None
        taken = [one.get(id(site)) for one in self._samples]
        there = [one for one in taken if one is not None]
        return torch.stack(there) if there and len(there) == len(taken) else None

    def _with_layouts(
        self, site: Site, samples: Tensor, best: tuple[Carried, float], limit: float
    ) -> tuple[Carried, float]:
        """The best of what is known and of rows of irreducible blocks, by the samples."""
        found = [best]
        for one in layouts(samples, self._rotations, (ACCUMULATED * _eps(site, self._precision) * site.size) ** 2):
            back = one.rotate_back(samples, self._rotations)
            found.append((one, float(back.var(0).mean())))
        return best_of(found, limit, MUCH_BETTER)


def rounding(site: Site, precision: torch.dtype) -> float:
    """What rounding does to an activation of a model: as seen, as far as the precision explains it."""
    return rounding_of(site.floor, _eps(site, precision), site.size, site.operands)


def rounding_of(floor: float, eps: float, size: float, operands: float) -> float:
    """What rounding does to numbers of a size, made from operands, in a precision; a floor was seen."""
    return max(min(floor, AMPLIFIED * eps * size), ACCUMULATED * eps * size, eps / 2 * operands, 1e-300)


def _eps(site: Site, precision: torch.dtype) -> float:
    return max(torch.finfo(precision).eps, torch.finfo(site.dtype).eps)
