r"""Sums over structures, and the estimates, standard errors and intervals that follow from them.

Each structure brings ``x = (w·ℓ_equiv, w·ℓ_total, w)`` with its weight ``w`` in the loss. Everything reported is a
ratio of sums ``ρ = Σa / Σb`` of linear combinations a, b of x, and its variance follows by the delta method,
``Var ρ ≈ n/(n−1) Σ (a_i − ρ b_i)² / (Σ b_i)²`` (Cochran, Sampling Techniques, 3rd ed., 1977, section 2.11), from the
sums of x and of ``x xᵀ`` alone: so they merge over batches, ranks and resumed runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from torch import Tensor

Scale = Literal["linear", "log", "logit"]

EQUIV, TOTAL, MEAN, WEIGHT = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (-1.0, 1.0, 0.0), (0.0, 0.0, 1.0)
"""The combinations of x that are reported: ``L_mean`` is ``L_total − L_equiv``."""
LOGGED = {"L_total": "total", "L_mean": "mean", "L_equiv": "equiv", "share": "share"}
"""The names that are logged, and those of the fields of records."""


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and a 95 % interval; NaN where there is nothing to estimate them from."""

    value: float
    stderr: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the 95 % interval."""
        return self.low, self.high

    @classmethod
    def with_interval(cls, value: float, stderr: float, dof: float, scale: Scale = "linear") -> Estimate:
        """Student t interval, symmetric on the given scale where the value lies in its domain, linear elsewhere.

        Args:
            value: the estimate.
            stderr: its standard error.
            dof: degrees of freedom of ``stderr``; below one there is no interval.
            scale: ``"log"`` for positive quantities, ``"logit"`` for shares.
        """
        if not (dof >= 1 and math.isfinite(stderr) and math.isfinite(value)):
            return cls(value, stderr)
        from scipy.special import stdtrit

        reach = float(stdtrit(dof, 0.975)) * stderr
        if scale == "log" and value > 0:
            factor = math.exp(min(reach / value, 700.0))
            return cls(value, stderr, value / factor, value * factor)
        if scale == "logit" and 0 < value < 1:
            center, half = math.log(value / (1 - value)), reach / (value * (1 - value))
            low, high = (1 / (1 + math.exp(-max(min(x, 700.0), -700.0))) for x in (center - half, center + half))
            return cls(value, stderr, low, high)
        return cls(value, stderr, value - reach, value + reach)


def flattened(estimates: Mapping[str, Estimate], intervals: Container[str]) -> dict[str, Any]:
    """Estimates as fields of a record: ``<name>``, ``<name>_stderr``, and ``<name>_interval`` of some."""
    found: dict[str, Any] = {}
    for name, one in estimates.items():
        found |= {name: one.value, f"{name}_stderr": one.stderr}
        if name in intervals:
            found[f"{name}_interval"] = one.interval
    return found


@dataclass(frozen=True)
class Sums:
    """Sums over structures of x and of ``x xᵀ``, and their number; ``+`` merges."""

    first: Tensor
    second: Tensor
    count: Tensor

    @classmethod
    def of(cls, equiv: Tensor, total: Tensor, weight: Tensor) -> Sums:
        """Sum over structures.

        Args:
            equiv: ``L_equiv`` of each structure, ``(U,)``.
            total: ``L_total`` of each structure, ``(U,)``; NaN where there is no target.
            weight: weight of each structure in the loss, ``(U,)``; structures of weight zero do not count.
        """
        x = torch.stack([equiv * weight, total * weight, weight], -1).double()
        counts = weight > 0
        x = torch.where(counts[:, None], x, 0.0)  # not x[counts]: that would wait for the device
        return cls(x.sum(0), x.mT @ x, counts.sum().double())

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.first + other.first, self.second + other.second, self.count + other.count)

    def tensors(self) -> dict[str, Tensor]:
        """``L_total``, ``L_mean``, ``L_equiv`` and ``share``, each with ``_stderr``, without waiting for the device.

        What :meth:`ratio` gives, as 0-d tensors; NaN where there are no labels, or fewer than two structures.
        """
        found = {}
        asked = {"L_total": (TOTAL, WEIGHT), "L_mean": (MEAN, WEIGHT), "L_equiv": (EQUIV, WEIGHT)}
        for name, (a, b) in {**asked, "share": (EQUIV, TOTAL)}.items():
            bottom = self._dot(b)
            value = self._dot(a) / bottom
            # Coefficients a − ρ b of the residual, Python zeros where an entry is not used: its sums may be NaN.
            rest = [(x - y * value if y else x, k) for k, (x, y) in enumerate(zip(a, b, strict=True)) if x or y]
            scatter = sum((r * s * self.second[i, j] for r, i in rest for s, j in rest), torch.zeros_like(value))
            found[name] = value
            found[f"{name}_stderr"] = (self.count / (self.count - 1) * scatter.clamp(min=0)).sqrt() / bottom.abs()
        return found

    def _dot(self, combination: tuple[float, float, float]) -> Tensor:
        terms = [c * self.first[k] for k, c in enumerate(combination) if c]
        return sum(terms[1:], terms[0])

    def flat(self) -> Tensor:
        """All sums in one tensor ``(13,)``, for a single collective."""
        return torch.cat([self.first, self.second.flatten(), self.count[None]])

    @classmethod
    def from_flat(cls, flat: Tensor) -> Sums:
        """Undo :meth:`flat`."""
        return cls(flat[:3], flat[3:12].reshape(3, 3), flat[12])

    def to(self, device: torch.device | str) -> Sums:
        """The same sums on another device."""
        return Sums(self.first.to(device), self.second.to(device), self.count.to(device))

    def ratio(
        self, numerator: tuple[float, float, float], denominator: tuple[float, float, float]
    ) -> tuple[float, float]:
        """``Σ numerator·x / Σ denominator·x`` and its standard error over structures (NaN below two)."""
        # A structure without a target has NaN total: a combination that leaves the total out must not touch it.
        used = [k for k, (x, y) in enumerate(zip(numerator, denominator, strict=True)) if x or y]
        first = self.first.tolist()
        bottom = sum(denominator[k] * first[k] for k in used)
        if bottom == 0 or not math.isfinite(bottom):
            return math.nan, math.nan
        value = sum(numerator[k] * first[k] for k in used) / bottom
        n = float(self.count)
        if n < 2:
            return value, math.nan
        residual = self.first.new_tensor([numerator[k] - value * denominator[k] for k in used])
        scatter = max(float(residual @ self.second[used][:, used] @ residual), 0.0)
        return value, math.sqrt(n / (n - 1) * scatter) / abs(bottom)

    def estimate(
        self, numerator: tuple[float, float, float], denominator: tuple[float, float, float], scale: Scale = "linear"
    ) -> Estimate:
        """The ratio with its interval, Student t with n − 1 degrees of freedom."""
        value, stderr = self.ratio(numerator, denominator)
        return Estimate.with_interval(value, stderr, float(self.count) - 1, scale)

    @property
    def by_name(self) -> dict[str, Estimate]:
        """``total``, ``mean``, ``equiv`` and ``share``."""
        return {name: getattr(self, name) for name in LOGGED.values()}

    @property
    def equiv(self) -> Estimate:
        """``L_equiv``, interval on the log scale."""
        return self.estimate(EQUIV, WEIGHT, "log")

    @property
    def total(self) -> Estimate:
        """``L_total``."""
        return self.estimate(TOTAL, WEIGHT)

    @property
    def mean(self) -> Estimate:
        """``L_mean``."""
        return self.estimate(MEAN, WEIGHT)

    @property
    def share(self) -> Estimate:
        """``L_equiv / L_total``, interval on the logit scale."""
        return self.estimate(EQUIV, TOTAL, "logit")
