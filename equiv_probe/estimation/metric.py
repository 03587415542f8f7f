"""The decomposition as a ``torchmetrics.Metric``: sums that merge over batches, ranks and resumed runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from equiv_probe.estimation.estimates import LOGGED, Sums, flattened


class EquivarianceMetric(Metric):
    """Accumulate ``L_total``, ``L_mean``, ``L_equiv`` and the share of one output over structures.

    The states are sums, so distributed reduction, ``merge_state`` and a saved ``state_dict`` all give what one pass
    over everything would have given. The mathematics is in :class:`equiv_probe.estimation.estimates.Sums`.

    Args:
        kwargs: of :class:`torchmetrics.Metric`.

    >>> metric = EquivarianceMetric()
    >>> metric.update(equiv=torch.tensor([0.1, 0.3]), total=torch.tensor([1.0, 1.0]))
    >>> round(float(metric.compute()["share"]), 3)
    0.2
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    first: Tensor
    second: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, shape in (("first", (3,)), ("second", (3, 3)), ("count", ())):
            zeros = torch.zeros(shape, dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum", persistent=True)

    def update(self, equiv: Tensor, total: Tensor, weight: Tensor | None = None) -> None:
        """Add structures by ``L_equiv``, ``L_total`` (NaN without a target) and weight (None: one each), each ``(U,)``.

        Nothing waits for the device.
        """
        sums = Sums.of(equiv, total, torch.ones_like(equiv) if weight is None else weight)
        self.first = self.first + sums.first.to(self.first)
        self.second = self.second + sums.second.to(self.second)
        self.count = self.count + sums.count.to(self.count)

    @property
    def sums(self) -> Sums:
        """The sums so far."""
        return Sums(self.first, self.second, self.count)

    def compute(self) -> dict[str, Tensor]:
        """``L_total``, ``L_mean``, ``L_equiv`` and ``share``, each with ``_stderr`` over structures (NaN below two)."""
        found = flattened({name: getattr(self.sums, key) for name, key in LOGGED.items()}, ())
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    def set_dtype(self, dst_type: str | torch.dtype) -> EquivarianceMetric:
        """Stay in float64: half-precision training casts modules, and sums of squares would not survive it."""
        del dst_type
        return self
