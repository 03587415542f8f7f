"""What a run costs: stated, or as it was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling.fit_checks import require_positive
from equiv_probe.scaling.table import table_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe.scaling.table import Table


@dataclass(frozen=True)
class Cost:
    """``C = k N^p D^q``.

    Attributes:
        k: such as 6 for floating-point operations of a transformer per parameter and token.
        p: exponent of ``N``.
        q: exponent of ``D``.
        scatter: standard deviation of ``log C`` about a measured law; NaN for one that was stated.
    """

    k: float
    p: float = 1.0
    q: float = 1.0
    scatter: float = float("nan")

    def __call__(self, n: float, d: float) -> float:
        """The cost of a run."""
        return float(self.k * n**self.p * d**self.q)


CostLike = float | Cost | Callable[[float, float], float]
"""``k`` of ``C = k N D``, a :class:`Cost`, or a function ``(N, D) -> C`` that grows with both."""


def measured_cost(runs: Table | Mapping[str, Any], cost: str = "seconds", x: Sequence[str] = ("N", "D")) -> Cost:
    """The cost of runs as they were measured, by least squares of ``log C`` on ``log N`` and ``log D``.

    Args:
        runs: one row per run.
        cost: the column of what a run cost, such as device seconds.
        x: the columns of model size and data size.

    Raises:
        EquivProbeError: fewer than two sizes of either, or sizes that always go together; a cost that is missing.
    """
    table = table_of(runs)
    for name in (cost, *x):
        require_positive(name, table.numbers(name))
    columns = np.column_stack([np.ones(len(table)), *(np.log(table.numbers(name)) for name in x)])
    if np.linalg.matrix_rank(columns - np.array([0.0, *columns[:, 1:].mean(0)])) < 3:
        raise EquivProbeError("sizes that do not vary apart", f"two or more of {x[0]} and of {x[1]}", "Cost(k, p, q)")
    y = np.log(table.numbers(cost))
    solved = np.linalg.lstsq(columns, y, rcond=None)[0]
    left = ((y - columns @ solved) ** 2).sum() / max(len(y) - 3, 1)
    return Cost(float(np.exp(solved[0])), float(solved[1]), float(solved[2]), float(np.sqrt(left)))
