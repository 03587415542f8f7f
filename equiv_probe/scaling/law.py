"""A fitted power law: its parameters, what it predicts, and what it says."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import CALM
from equiv_probe.report.by_name import ByName
from equiv_probe.report.document import HEIGHT, Column, Document, Figure, Headline, Section, method
from equiv_probe.scaling import estimate_tables, figures
from equiv_probe.scaling.estimates import Estimate, Estimated, Rows, as_arrays, interval_of, listed, shown
from equiv_probe.scaling.figures import Line, label_of
from equiv_probe.scaling.solver import predicted

if TYPE_CHECKING:
    from equiv_probe.report.document import Table
    from equiv_probe.scaling.solver import Array

ASSUMED = (
    "whether losses follow a power law at all, and follow it beyond the sizes that were run: intervals say what the "
    "runs' scatter leaves open if they do"
)


def names_of(variables: int) -> list[str]:
    """The parameters of a law in one or two variables.

    >>> names_of(2)
    ['E', 'A', 'alpha', 'B', 'beta']
    """
    return ["E", "A", "alpha", "B", "beta"][: 1 + 2 * variables]


class Fit(Estimated, ByName[Estimate], frozen=True):
    """A power law of the loss; ``law["alpha"]`` is a parameter.

    Attributes:
        x: names of the variables.
        loss: name of the loss.
        parameters: ``E`` (the loss at infinite size), ``A``, ``alpha`` and, of the second variable, ``B``, ``beta``;
            ``E``, ``A`` and ``B`` in the units of the loss (at size 1).
        draws: the parameters of the resamples, ``(B, p)``; NaN for an exponent whose term vanished.
        points: the runs: their sizes and, last, their loss, ``(n, k + 1)``.
        scatter: standard deviation of ``log L`` about the law.
        agreeing: how many of how many starts ended at the best fit.
    """

    kind: ClassVar[str] = "fit"

    x: tuple[str, ...]
    loss: str
    parameters: dict[str, Estimate]
    draws: Rows
    points: Rows
    scatter: float
    agreeing: tuple[int, int]

    def __post_init__(self) -> None:
        """Refuse parameters and runs of another number of variables."""
        names = names_of(len(self.x))
        if not 1 <= len(self.x) <= 2 or list(self.parameters) != names:
            raise ValueError(f"parameters: not {', '.join(names)} of a law in {listed(self.x or ['nothing'])}")
        as_arrays(self, "draws", "points")
        for name, width in (("draws", len(names)), ("points", len(self.x) + 1)):
            rows = getattr(self, name)
            if rows.size and (rows.ndim != 2 or rows.shape[1] != width):
                raise ValueError(f"{name}: not {width} numbers in every row")
            msgspec.structs.force_setattr(self, name, rows.reshape(-1, width))
        if not len(self.points) or not (np.isfinite(self.points) & (self.points > 0)).all():
            raise ValueError("points: not runs of positive sizes and losses")

    def items(self) -> list[tuple[str, Estimate]]:
        """The parameters by name."""
        return list(self.parameters.items())

    @property
    def runs(self) -> int:
        """How many there were."""
        return len(self.points)

    @property
    def range(self) -> dict[str, tuple[float, float]]:
        """Of each variable, in the runs; beyond it the law is an extrapolation."""
        return {x: (float(own.min()), float(own.max())) for x, own in zip(self.x, self.points.T, strict=False)}

    @property
    def residuals(self) -> Array:
        """Of ``log L``, data minus law, ``(n,)``."""
        return np.asarray(np.log(self.points[:, -1] / self.at(*self.points[:, :-1].T)))

    @property
    def formula(self) -> str:
        """The law in letters."""
        terms = [f"{a}·{x}^−{b}" for x, a, b in zip(self.x, ("A", "B"), ("alpha", "beta"), strict=False)]
        return f"{self.loss} = E + {' + '.join(terms)}"

    @property
    def values(self) -> Array:
        """The best parameters, ``(p,)``."""
        return np.array([one.value for one in self.parameters.values()])

    def at(self, *x: Any) -> Array:
        """The law's loss.

        Args:
            x: one number or array per variable, in their own units; broadcast against each other.
        """
        return self._at(self.values, x)

    def band(self, *x: Any) -> tuple[Array, Array]:
        """The interval of the law's loss (of the law, not of a run about it), shaped as :meth:`at`; NaN without."""
        best = self.at(*x)
        drawn = self._at(self.draws, x).reshape(len(self.draws), best.size)
        low, high = np.array([interval_of(one, self.level) for one in drawn.T]).T
        return low.reshape(best.shape), high.reshape(best.shape)

    def _at(self, theta: Array, x: tuple[Any, ...]) -> Array:
        if len(x) != len(self.x):
            raise EquivProbeError(f"{len(x)} arguments", f"{' and '.join(self.x)}")
        grids = np.broadcast_arrays(*(np.asarray(one, dtype=float) for one in x))
        z = np.log(np.column_stack([grid.ravel() for grid in grids]))
        values = predicted(np.nan_to_num(theta), z)
        return np.asarray(values.reshape((*theta.shape[:-1], *grids[0].shape)))

    def reach(self, loss: Any) -> Array:
        """The size at which a law in one variable comes to a loss: ``(A / (L − E))^(1 / alpha)``; infinite below ``E``.

        Args:
            loss: numbers of any shape.

        Raises:
            EquivProbeError: a law in two variables.
        """
        return self.reached(self.values, np.asarray(loss, dtype=float))

    def reached(self, theta: Array, loss: Array) -> Array:
        """As :meth:`reach`, for parameters of shape ``(..., p)``; gives ``(..., *loss.shape)``."""
        if len(self.x) != 1:
            raise EquivProbeError(f"a law in {' and '.join(self.x)}", "one variable", 'fit(runs, x="D")')
        e, a, alpha = (theta[..., i].reshape(*theta.shape[:-1], *([1] * loss.ndim)) for i in range(3))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            sizes = (a / (loss - e)) ** (1 / alpha)
        return np.asarray(np.where(loss > e, sizes, np.inf))

    def document(self) -> Document:
        """How fast the loss falls, the parameters, and the law beside the runs."""
        spans = {name: f"from {shown(low)} to {shown(high)}" for name, (low, high) in self.range.items()}
        found = {
            "scatter about the law": f"{100 * self.scatter:.2g} %",
            "starts that agree": "{} of {}".format(*self.agreeing),
        }
        return Document(
            f"{self.name}: {self.formula}" if self.name else self.formula,
            f"{self.runs} runs" + (f" of {self.source}" if self.source else ""),
            [
                self._headline(),
                self.parameter_table(),
                Section("Does the law fit the runs?", [self._figure()]),
                *method({**spans, **found, **self.protocol}, self.notes, blind_spots=[ASSUMED]),
            ],
        )

    def _headline(self) -> Headline:
        exponents = dict(zip(self.x, (self.parameters[name] for name in ("alpha", "beta")[: len(self.x)]), strict=True))
        falling = [x for x, one in exponents.items() if not np.isnan(one.value)]
        unknown = [x for x in falling if len(self.draws) and not exponents[x].bounded]
        first = exponents[self.x[0]]
        answer = f"{self.loss} falls with {listed(falling)}" if falling else f"{self.loss} does not fall"
        if unknown:
            answer += f"; how fast with {listed(unknown)}, the runs do not say"
        meanings = {"E": "the loss at infinite size", "beta": f"the exponent of {self.x[-1]}"}
        others = [f"{key} = {self.parameters[key]}, {text}" for key, text in meanings.items() if key in self.parameters]
        return Headline(
            f"{answer}{self._floor()}.",
            first.value,
            f"exponent of {self.x[0]}",
            first.span(self.level),
            f"{self.formula}: ten times the {self.x[0]} makes what is above E "
            f"{shown(10**first.value)} times smaller." if first.value < np.inf else "",
            others,
            severity="fair" if unknown else "good" if len(self.draws) and falling else "unknown",
            about=self.loss,
            question="How does the loss scale?",
        )  # fmt: skip

    def _floor(self) -> str:
        floor = self.parameters["E"]
        if floor.low == floor.high:
            return f", towards the given floor of {shown(floor.value)}"
        if np.isnan(floor.low):
            return ""
        return ", towards a floor above zero" if floor.low > 0 else "; a floor above zero is not shown"

    def parameter_table(self, title: str = "Parameters of the law") -> Table:
        """The parameters with their intervals."""
        return estimate_tables.table(title, self._columns(), self.level)

    def rows(self) -> list[dict[str, Any]]:
        """One row per parameter."""
        return estimate_tables.rows(self._columns())

    def _columns(self) -> estimate_tables.Columns:
        names, values = list(self.parameters), list(self.parameters.values())
        units = ["" if name in {"alpha", "beta"} else self.unit for name in names]
        columns: list[Any] = [(Column("parameter"), names), (Column("value"), values)]
        return [*columns, (Column("unit", kind="text"), units)] if self.unit else columns

    def curve(self, colour: str = CALM, label: str = "") -> Line:
        """A law in one variable as a line through its runs."""
        sizes = np.geomspace(*self.range[self.x[0]], 100)
        points = self.points[:, 0], self.points[:, 1]
        band = self.band(sizes) if len(self.draws) else None
        return Line(label or self.formula, sizes, self.at(sizes), colour, band, points, self.parameters["E"].value)

    def _figure(self) -> Figure:
        title = f"{self.loss} against {' and '.join(self.x)}"
        drawn = partial(figures.curves, x=label_of(self.x[-1]), y=label_of(self.loss, self.unit))
        if len(self.x) == 1:
            text = "Points are runs; the line is the law, with its interval."
            return Figure(title, lambda ax: drawn([self.curve()], ax=ax), text)
        text = f"Points are runs; lines are the law, one for each {self.x[0]}."
        sizes = figures.spread(np.unique(self.points[:, 0]))
        height, of = HEIGHT + 0.2 * figures.legend_rows(len(sizes)), label_of(self.x[0])
        lines = partial(figures.family, sizes, self.points, self.at)
        return Figure(title, lambda ax: drawn(lines(), ax=ax, title=of), text, height=height)
