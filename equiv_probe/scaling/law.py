"""A fitted power law: its parameters, what it predicts, and how it prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.text import Text

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.formatting import table_of
from equiv_probe.scaling.estimates import Estimate, interval_of, shown
from equiv_probe.scaling.solver import predicted

if TYPE_CHECKING:
    from equiv_probe.scaling.solver import Array


def names_of(variables: int) -> list[str]:
    """The parameters of a law in one or two variables.

    >>> names_of(2)
    ['E', 'A', 'alpha', 'B', 'beta']
    """
    return ["E", "A", "alpha", "B", "beta"][: 1 + 2 * variables]


@dataclass(frozen=True)
class Fit:
    """A power law of the loss.

    Attributes:
        x: names of the variables.
        loss: name of the loss.
        parameters: ``E`` (the loss at infinite size), ``A``, ``alpha`` and, of the second variable, ``B``, ``beta``;
            ``E``, ``A`` and ``B`` in the units of the loss (at size 1).
        draws: the parameters of the resamples, ``(B, p)``; NaN for an exponent whose term vanished.
        runs: how many there were.
        scatter: standard deviation of ``log L`` about the law.
        residuals: of ``log L``, ``(n,)``.
        delta: Huber's, of the residuals of ``log L``.
        agreeing: how many of how many starts ended at the best fit.
        range: of each variable, in the runs; beyond it the law is an extrapolation.
        notes: what a reader must know to use the numbers.
        level: of the intervals.
    """

    x: tuple[str, ...]
    loss: str
    parameters: dict[str, Estimate]
    draws: Array
    runs: int
    scatter: float
    residuals: Array
    delta: float
    agreeing: tuple[int, int]
    range: dict[str, tuple[float, float]]
    notes: list[str] = field(default_factory=list)
    level: float = 0.95

    def __getitem__(self, name: str) -> Estimate:
        """A parameter."""
        if name not in self.parameters:
            raise EquivProbeError(f"the parameter {name!r}", ", ".join(self.parameters))
        return self.parameters[name]

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
        if not len(self.draws):
            unknown = np.full(self.at(*x).shape, np.nan)
            return unknown, unknown
        drawn = self._at(self.draws, x)
        ends = [interval_of(one, self.level) for one in drawn.reshape(len(self.draws), -1).T]
        shape = drawn.shape[1:]
        return np.array([low for low, _ in ends]).reshape(shape), np.array([high for _, high in ends]).reshape(shape)

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

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        return {
            "formula": self.formula,
            "x": list(self.x),
            "loss": self.loss,
            "parameters": {name: one.to_dict() for name, one in self.parameters.items()},
            "runs": self.runs,
            "scatter": self.scatter,
            "delta": self.delta,
            "agreeing_starts": list(self.agreeing),
            "range": {name: list(ends) for name, ends in self.range.items()},
            "notes": self.notes,
            "level": self.level,
        }

    def __rich_console__(self, console: Console, options: Any) -> Any:
        """The parameters as a Rich table."""
        del console, options
        yield Text(f"{self.formula}, {self.runs} runs", "bold")
        table = table_of("", "", "value", f"{100 * self.level:g} % interval")
        for name, one in self.parameters.items():
            table.add_row(*map(Text, (name, shown(one.value), one.interval)))
        yield table
        spans = "; ".join(f"{name} from {shown(a)} to {shown(b)}" for name, (a, b) in self.range.items())
        agreeing, starts = self.agreeing
        yield Text(
            f"{spans}. Runs scatter by {100 * self.scatter:.2g} % about the law; {agreeing} of {starts} starts agree."
        )
        for note in self.notes:
            yield Text.assemble(("Note: ", "bold"), note)

    def __str__(self) -> str:
        return printed(self)


def printed(what: Any) -> str:
    """What Rich makes of it, as plain text."""
    console = Console(file=StringIO(), width=120, highlight=False, color_system=None)
    console.print(what)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())
