"""How to spend compute: the model size and data size with the lowest loss at a given cost.

>>> from equiv_probe.scaling import fit
>>> N, D = np.repeat([1e3, 1e4, 1e5, 1e6], 4), np.tile([1e2, 1e3, 1e4, 1e5], 4)
>>> law = fit({"N": N, "D": D, "L_total": 0.01 + 3 * N**-0.5 + 2 * D**-0.5}, resamples=0)
>>> best = allocate(law, compute=[1e6, 1e8], cost=6.0)
>>> [f"{n.value:.0f}" for n in best.n], f"{best.n_exponent.value:.3f}"
(['612', '6124'], '0.500')
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import CALM, SERIES
from equiv_probe.report.document import Column, Document, Figure, Headline, Section, method
from equiv_probe.scaling import estimate_tables, figures
from equiv_probe.scaling.best_sizes import closed, numerical
from equiv_probe.scaling.cost import Cost
from equiv_probe.scaling.estimates import Estimate, Estimated, estimates_of, shown
from equiv_probe.scaling.figures import label_of
from equiv_probe.scaling.law import ASSUMED, Fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equiv_probe.scaling.cost import CostLike
    from equiv_probe.scaling.solver import Array


class Allocation(Estimated, frozen=True):
    """The best sizes at each cost.

    Attributes:
        compute: the costs.
        n: the first variable, such as parameters.
        d: the second, such as structures.
        loss: the law's loss there.
        n_exponent: ``n`` grows as compute to this power; NaN where the cost is a function.
        d_exponent: likewise of ``d``.
        names: of the variables.
        loss_name: of the loss.
    """

    kind: ClassVar[str] = "allocation"

    compute: list[float]
    n: list[Estimate]
    d: list[Estimate]
    loss: list[Estimate]
    n_exponent: Estimate
    d_exponent: Estimate
    names: tuple[str, str]
    loss_name: str

    def __post_init__(self) -> None:
        """Refuse costs without sizes."""
        if not self.compute or {len(self.n), len(self.d), len(self.loss)} != {len(self.compute)}:
            raise ValueError("compute: not as many sizes and losses as costs")

    def document(self) -> Document:
        """How the best sizes grow with compute, and what they are."""
        (n, d), loss = self.names, self.loss_name
        sizes = {n: (self.n, CALM), d: (self.d, SERIES[0])}
        drawn = partial(figures.bars, self.compute, sizes, label_of("C"), "best size")
        return Document(
            f"{self.name}: best sizes" if self.name else f"Best {n} and {d}",
            f"the law of {loss}" + (f" in {self.source}" if self.source else ""),
            [
                self._headline(),
                estimate_tables.table("Best sizes at a given compute C", self._columns(), self.level),
                Section("How do they grow?", [Figure("Best sizes against compute", drawn, "Bars are intervals.")]),
                *method(self.protocol, self.notes, blind_spots=[ASSUMED]),
            ],
        )

    def _headline(self) -> Headline:
        (n, d), best = self.names, (self.n[-1], self.d[-1], self.loss[-1])
        cost = shown(self.compute[-1])
        at = [f"At C = {cost} the best {name} is {one}" for name, one in zip(self.names, best, strict=False)]
        at.append(f"The law's {self.loss_name} there is {best[2]} {self.unit}".rstrip())
        question = "How large should a run be?"
        if np.isnan(self.n_exponent.value):
            return Headline(
                f"{at[0]}, and the best {d} is {best[1]}.", best[0].value, n, best[0].span(self.level),
                "The cost is a function, so that the best sizes need not grow as powers of it.", at, question=question,
            )  # fmt: skip
        grows = {True: "faster than", False: "more slowly than"}[self.n_exponent.value > self.d_exponent.value]
        apart = self.n_exponent.low > self.d_exponent.high or self.n_exponent.high < self.d_exponent.low
        return Headline(
            f"The best {n} grows {grows} the best {d} as compute grows." if apart
            else f"Whether the best {n} or the best {d} grows faster with compute is not known.",
            self.n_exponent.value, f"exponent of C for {n}", self.n_exponent.span(self.level),
            f"{n} ∝ C^{self.n_exponent}, {d} ∝ C^{self.d_exponent}.", at, "good" if apart else "unknown", n, question,
        )  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One row per cost."""
        return estimate_tables.rows(self._columns())

    def _columns(self) -> estimate_tables.Columns:
        heads = (Column("C"), *map(Column, self.names), Column(self.loss_name, self.unit))
        return list(zip(heads, (self.compute, self.n, self.d, self.loss), strict=True))


def allocate(law: Fit, compute: Sequence[float] | float, cost: CostLike) -> Allocation:
    """The sizes with the lowest loss at given costs, with the fit's intervals.

    Args:
        law: in two variables.
        compute: costs, in the unit of ``cost``.
        cost: ``k`` of ``C = k N D``; a :class:`Cost`, such as :func:`measured_cost` gives; or a function that grows
            with both sizes, for which the optimum is found numerically.

    Raises:
        EquivProbeError: a law in one variable, or one whose loss does not depend on both; a cost that does not grow
            with both.
    """
    costs = np.atleast_1d(np.asarray(compute, dtype=float))
    known = Cost(float(cost)) if isinstance(cost, (int, float)) else cost
    _require(law, costs, known)
    thetas = np.vstack([law.values, law.draws])
    exponents, stated = [Estimate(float("nan"))] * 2, "a function"
    with np.errstate(all="ignore"):
        if isinstance(known, Cost):
            n, d = closed(thetas, costs, known)
            slopes = thetas[:, [4, 2]]
            exponents = estimates_of(slopes / (slopes @ [known.p, known.q])[:, None], law.level)
            stated = _written(known, law)
        else:
            thetas = thetas[:201]
            n, d = numerical(thetas, costs, known, list(law.range.values()))
        t = thetas[:, :, None]
        losses = t[:, 0] + t[:, 1] * n ** -t[:, 2] + t[:, 3] * d ** -t[:, 4]
    return Allocation(
        compute=costs.tolist(),
        n=estimates_of(n, law.level),
        d=estimates_of(d, law.level),
        loss=estimates_of(losses, law.level),
        n_exponent=exponents[0],
        d_exponent=exponents[1],
        names=(law.x[0], law.x[1]),
        loss_name=law.loss,
        notes=_extrapolated(law, costs, n[0], d[0]),
        level=law.level,
        protocol={"law": law.formula, "cost": stated, **law.protocol},
        name=law.name,
        source=law.source,
        unit=law.unit,
    )


def _require(law: Fit, costs: Array, cost: CostLike) -> None:
    if len(law.x) != 2:
        raise EquivProbeError(f"a law in {law.x[0]}", "one in two variables", 'fit(runs, x=("N", "D"))')
    if not np.isfinite(law.values).all() or min(law["A"].value, law["B"].value) <= 0:
        raise EquivProbeError("a loss that does not depend on both sizes", "a fit with A and B above zero")
    if not len(costs) or not ((costs > 0) & (costs < np.inf)).all():
        raise EquivProbeError(f"a compute of {costs.tolist()}", "positive numbers", "compute=[1e15, 1e16]")
    if isinstance(cost, Cost) and not (0 < cost.k < np.inf and min(cost.p, cost.q) > 1e-6):
        grows = "one that grows with both sizes: k, p and q above zero"
        raise EquivProbeError(f"a cost of {_written(cost, law)}", grows, "cost=6.0, or Cost(k, p, q)")


def _written(cost: Cost, law: Fit) -> str:
    return f"{cost.k:.3g} {law.x[0]}^{cost.p:.3g} {law.x[1]}^{cost.q:.3g}"


def _extrapolated(law: Fit, costs: Array, n: Array, d: Array) -> list[str]:
    """A note on best sizes that were not run."""
    inside = np.ones(len(costs), dtype=bool)
    for sizes, (low, high) in zip((n, d), law.range.values(), strict=True):
        inside &= (low <= sizes) & (sizes <= high)
    at = ", ".join(map(shown, costs[~inside]))
    return [f"At C = {at} the best sizes lie outside of the sizes that were run: extrapolated."] if at else []
