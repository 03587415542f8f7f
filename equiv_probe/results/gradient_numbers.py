"""What was found of the gradients of one group of parameters: numbers with standard errors and 95 % intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.estimation.estimates import Estimate, flattened
from equiv_probe.report.record import Part

if TYPE_CHECKING:
    from collections.abc import Mapping


class GradientNumbers(Part, frozen=True):
    """``∇L_total``, ``∇L_mean`` and ``∇L_equiv`` of one group of parameters; NaN for what is less than its noise.

    Attributes:
        parameters: how many numbers they are.
        units: of which the standard errors are: blocks, or measurements of two blocks.
        norm_total: ``‖∇L_total‖``.
        norm_mean: ``‖∇L_mean‖``.
        norm_equiv: ``‖∇L_equiv‖``.
        ratio: ``‖∇L_equiv‖ / ‖∇L_mean‖``.
        cosine: of the angle between ``∇L_mean`` and ``∇L_equiv``.
        squared_mean: unbiased ``‖∇L_mean‖²``, which noise may take below zero.
        squared_equiv: unbiased ``‖∇L_equiv‖²``.
        inner: unbiased ``⟨∇L_mean, ∇L_equiv⟩``.
    """

    parameters: int | None
    units: int
    norm_total: float
    norm_total_stderr: float
    norm_total_interval: tuple[float, float]
    norm_mean: float
    norm_mean_stderr: float
    norm_mean_interval: tuple[float, float]
    norm_equiv: float
    norm_equiv_stderr: float
    norm_equiv_interval: tuple[float, float]
    ratio: float
    ratio_stderr: float
    ratio_interval: tuple[float, float]
    cosine: float
    cosine_stderr: float
    cosine_interval: tuple[float, float]
    squared_mean: float
    squared_mean_stderr: float
    squared_mean_interval: tuple[float, float]
    squared_equiv: float
    squared_equiv_stderr: float
    squared_equiv_interval: tuple[float, float]
    inner: float
    inner_stderr: float
    inner_interval: tuple[float, float]

    @classmethod
    def of(cls, parameters: int | None, units: int, estimates: Mapping[str, Estimate]) -> GradientNumbers:
        """From estimates by name."""
        return cls(parameters=parameters, units=units, **flattened(estimates, estimates))

    @property
    def largest_ratio(self) -> float:
        """The largest ``‖∇L_equiv‖ / ‖∇L_mean‖`` that both 95 % intervals leave room for; NaN if there is none."""
        least, high = self.squared_mean_interval[0], self.squared_equiv_interval[1]
        return math.sqrt(max(high, 0.0) / least) if least > 0 and math.isfinite(high) else math.nan
