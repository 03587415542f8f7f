"""What comparing two learning curves found, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.text import Text

from equiv_probe.report.formatting import table_of
from equiv_probe.results.report import without_nan
from equiv_probe.scaling.estimates import Estimate, shown
from equiv_probe.scaling.law import printed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from equiv_probe.scaling.solver import Array


@dataclass(frozen=True)
class Crossing:
    """Where the lower loss changes from one model to the other.

    Attributes:
        x: the place; its interval is all places around it where the models are not told apart, to 0 or infinity where
            that goes on to the end of the runs.
        loss: there.
        after: the model whose loss is lower beyond.
    """

    x: Estimate
    loss: float
    after: str


@dataclass(frozen=True)
class Gap:
    """Two models' loss against what was spent on them.

    Attributes:
        names: of the models.
        x: name of what was spent.
        loss: name of the loss.
        at: places, ``(G,)``.
        curves: the mean loss of either model, ``(G,)`` each.
        bands: their intervals.
        ratio: the second model's loss over the first's, ``(G,)``.
        ratio_low: its interval at each place; NaN where there is none.
        ratio_high: its interval's other end.
        lower: at each place 1 where the first model is told to be below the second, -1 where the second is, 0 where
            they are not told apart, ``(G,)``. A stretch counts if it goes beyond what chance does anywhere along the
            curves, so that many places to look at do not make differences of their own.
        crossings: where the lower loss changes.
        losses: at which times are compared.
        needed: what either model needs for them; infinite where it does not get there.
        factor: what the second needs over what the first needs.
        runs: of either model.
        notes: what a reader must know.
        level: of the intervals.
    """

    names: tuple[str, str]
    x: str
    loss: str
    at: Array
    curves: tuple[Array, Array]
    bands: tuple[tuple[Array, Array], tuple[Array, Array]]
    ratio: Array
    ratio_low: Array
    ratio_high: Array
    lower: NDArray[np.int8]
    crossings: list[Crossing]
    losses: list[float]
    needed: tuple[list[float], list[float]]
    factor: list[Estimate]
    runs: tuple[int, int]
    notes: list[str] = field(default_factory=list)
    level: float = 0.95

    @property
    def measured(self) -> bool:
        """Whether there are intervals."""
        return bool(np.isfinite(self.ratio_low).all())

    @property
    def verdict(self) -> str:
        """The answer in a sentence."""
        a, b = self.names
        span = f"between {shown(self.at[0])} and {shown(self.at[-1])} {self.x}"
        parts = stretches(self.lower)
        told = [part for part in parts if part[2] != 0]
        if not told:
            return f"{a} and {b} are not told apart anywhere {span}"
        if len(parts) == 1:
            lower, upper = (a, b) if told[0][2] > 0 else (b, a)
            return f"{lower} is below {upper} over the whole range, {span}" + self._caveat
        said = []
        for start, stop, sign in parts:
            where = f"from {shown(self.at[start])} to {shown(self.at[stop])} {self.x}"
            lower, upper = (a, b) if sign > 0 else (b, a)
            said.append(f"{lower} is below {upper} {where}" if sign else f"they are not told apart {where}")
        return "; ".join(said) + self._caveat

    @property
    def _caveat(self) -> str:
        return "" if self.measured else " (without error bars)"

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; what is not known is None, what is not reached the word ``"inf"``."""
        plain: dict[str, Any] = {
            "models": list(self.names),
            "x": self.x,
            "loss": self.loss,
            "runs": list(self.runs),
            "verdict": self.verdict,
            "crossings": [{"x": c.x.to_dict(), "loss": c.loss, "after": c.after} for c in self.crossings],
            "times": [
                {
                    "loss": loss,
                    self.names[0]: Estimate(first).to_dict()["value"],
                    self.names[1]: Estimate(second).to_dict()["value"],
                    "factor": factor.to_dict(),
                }
                for loss, first, second, factor in zip(self.losses, *self.needed, self.factor, strict=True)
            ],
            "curves": {
                self.x: self.at.tolist(),
                self.names[0]: self.curves[0].tolist(),
                self.names[1]: self.curves[1].tolist(),
                "ratio": self.ratio.tolist(),
                "ratio_low": self.ratio_low.tolist(),
                "ratio_high": self.ratio_high.tolist(),
                "lower": self.lower.tolist(),
            },
            "notes": self.notes,
            "level": self.level,
        }
        cleaned: dict[str, Any] = without_nan(plain)
        return cleaned

    def __rich_console__(self, console: Console, options: Any) -> Any:
        """The verdict, the crossings, and the times as a Rich table."""
        del console, options
        first, second = self.names
        runs = " and ".join(f"{n} run{'s' * (n != 1)} of {name}" for n, name in zip(self.runs, self.names, strict=True))
        yield Text.assemble((f"{self.loss} against {self.x}: ", "bold"), f"{self.verdict}. {runs}.")
        for one in self.crossings:
            where = f"{self.x} = {one.x}"
            yield Text(f"Crossing at {where}, where {self.loss} is {shown(one.loss)}; beyond, {one.after} is lower.")
        if not self.crossings:
            yield Text("No crossing.")
        if self.losses:
            table = table_of(f"{self.x} to come to a loss", self.loss, first, second, f"{second} / {first}")
            for loss, a, b, factor in zip(self.losses, *self.needed, self.factor, strict=True):
                table.add_row(*map(Text, (shown(loss), shown(a), shown(b), str(factor))))
            yield table
        else:
            yield Text("The two have no loss in common: no times to compare.")
        for note in self.notes:
            yield Text.assemble(("Note: ", "bold"), note)

    def __str__(self) -> str:
        return printed(self)


def stretches(signs: Any) -> list[tuple[int, int, int]]:
    """First and last place of each stretch of one sign, and the sign.

    >>> stretches(np.array([1, 1, 0, -1]))
    [(0, 1, 1), (2, 2, 0), (3, 3, -1)]
    """
    edges = np.flatnonzero(np.diff(signs)) + 1
    starts, stops = [0, *edges.tolist()], [*(edges - 1).tolist(), len(signs) - 1]
    return [(start, stop, int(signs[start])) for start, stop in zip(starts, stops, strict=True)]
