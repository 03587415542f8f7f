r"""How far end points lie apart that should be the same, per sample: pure functions, and the sums over rotations.

With ``h_g`` the end points of rotated noise, rotated back, and ``h_1`` those of the unrotated noise, the deviation of a
sample is ``(E_g mean_atoms |h_g − h_1|²)^½``. The spread of its orbit ``h_g`` about the mean, without bias by the
jackknife over replicates, is ``√2`` times less: for isotropic noise the unrotated frame is one like all others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.estimates import Estimate
from equiv_probe.estimation.jackknife import jackknife

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.representation import Representation
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe.schema.structures import Structures


def mean_square(gap: Tensor, rep: Representation, structures: Structures, name: str = "") -> Tensor:
    """Squared length of differences ``(T, *S)``, averaged over the atoms of each sample, ``(T, U)``; NaN without atoms.

    Of grids over channels and voxels.
    """
    event = len(rep.event_shape)
    if rep.is_whole:
        return gap.square().flatten(2 if structures.layout == "leading" else 1).mean(-1).reshape(len(gap), -1)
    squares = gap.square().flatten(gap.ndim - event).sum(-1) if event else gap.square()
    if structures.layout == "one":
        return squares.flatten(1).mean(1, keepdim=True)
    if structures.layout == "leading":
        mask = structures.mask
        if mask is not None and squares.shape[1:] == mask.shape:
            held = mask.to(squares).flatten(1)
            return torch.where(held > 0, squares.flatten(2), 0.0).sum(-1) / held.sum(-1)
        return squares.flatten(2).mean(2) if squares.ndim > 2 else squares
    owner = structures.owner(gap[0], name)
    each = squares.flatten(2).mean(2) if squares.ndim > 2 else squares
    if owner is None:
        return each
    sums = each.new_zeros(len(each), structures.count).index_add_(1, owner, each)
    return sums / torch.bincount(owner, minlength=structures.count)


class Deviations:
    """Sums over a plan's rotations of one output, about the end points ``(T, *S)`` of the unrotated noise."""

    def __init__(
        self, about: Tensor, rep: Representation, structures: Structures, plan: RotationPlan, name: str
    ) -> None:
        self._about, self._rep, self._structures, self._plan, self._name = about, rep, structures, plan, name
        self._means = about.new_zeros(plan.R, *about.shape[1:])
        self.along = torch.zeros(())
        self._each: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """Take in the next rotation's end points, rotated back, ``(T, *S)``, in the plan's order."""
        k = len(self._each)
        weight = self._plan.weights[k % self._plan.n]
        squares = self.from_start(values)
        self._means[k // self._plan.n] += float(weight) * (values - self._about)[-1]
        self.along = self.along + weight / self._plan.R * squares
        self._each.append(squares[-1])

    def from_start(self, values: Tensor) -> Tensor:
        """Mean square distance to the end points of the unrotated noise, ``(T, U)``.

        Raises:
            EquivProbeError: other shapes.
        """
        if values.shape != self._about.shape:
            raise EquivProbeError(
                f"{self._name} of shape {tuple(values.shape)} after {tuple(self._about.shape)} in the first run",
                "as many samples, atoms and points of the path in every run",
                "fix the numbers of atoms and of steps outside the sampler",
            )
        return mean_square(values - self._about, self._rep, self._structures, self._name)

    @property
    def each(self) -> Tensor:
        """Mean square deviation of every rotation and sample, ``(K, U)``."""
        return torch.stack(self._each)

    @property
    def weights(self) -> Tensor:
        """Of all rotations, ``(K,)``."""
        return self._plan.weights.repeat(self._plan.R) / self._plan.R

    @property
    def by_replicate(self) -> Tensor:
        """The same, averaged within replicates, ``(R, U)``."""
        each = self.each.reshape(self._plan.R, self._plan.n, -1)
        return torch.einsum("n,rnu->ru", self._plan.weights, each)

    @property
    def size(self) -> Tensor:
        """Mean square of the end points themselves, ``(U,)``."""
        return mean_square(self._about[-1:], self._rep, self._structures, self._name)[0]

    def spread(self) -> Tensor:
        """Mean square of the orbit about its mean, without bias, ``(U,)``; NaN for a single random replicate."""

        def square(values: Tensor) -> Tensor:
            return mean_square(values, self._rep, self._structures, self._name)

        losses, of_mean = self.by_replicate, square(self._means.mean(0)[None])[0]
        if not self._plan.is_random:
            return losses[0] - of_mean
        if self._plan.R < 2:
            return torch.full_like(of_mean, math.nan)
        left_out = square((self._means.sum(0) - self._means) / (self._plan.R - 1))
        return jackknife(losses, of_mean, left_out, None, self._plan.population).equiv


def root(value: float) -> float:
    """Square root, of an estimate below zero zero; NaN stays."""
    return math.sqrt(max(value, 0.0)) if math.isfinite(value) else math.nan


def root_mean(values: Tensor) -> float:
    """Root of the mean of mean squares."""
    return root(float(values.mean()))


def interval(by_replicate: Tensor, *, shared: bool) -> tuple[float, float]:
    """95 % interval of the root mean square, on the log scale, from mean squares ``(R, U)``.

    Over samples, each of which has rotations of its own; of a single sample over replicates, if there are four; where
    all samples share their rotations, over both.
    """
    replicates, samples = by_replicate.shape
    over = [by_replicate.mean(0)] if samples > 1 else []
    if shared or samples == 1:
        over += [by_replicate.mean(1)] if replicates >= 4 else []
        if not over or (shared and replicates < 4):
            return math.nan, math.nan
    variance = sum(float(values.var()) / len(values) for values in over)
    dof = min(len(values) for values in over) - 1
    found = Estimate.with_interval(float(by_replicate.mean()), math.sqrt(variance), dof, "log")
    return root(found.low), root(found.high)
