"""What comparing two learning curves found, and how it is said."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np

from equiv_probe.report.axes import CALM, SERIES
from equiv_probe.report.document import Column, Document, Figure, Headline, Paragraph, Section, method
from equiv_probe.report.record import Part, Record
from equiv_probe.scaling import estimate_tables, figures
from equiv_probe.scaling.estimates import NAN_SPAN, Estimate, Numbers, Planes, Rows, as_arrays, shown
from equiv_probe.scaling.figures import Line, label_of

if TYPE_CHECKING:
    from equiv_probe.report.document import Block
    from equiv_probe.scaling.solver import Array

UNSEEN = "what other data, other settings of training, or longer runs would give"


class Crossing(Part, frozen=True):
    """Where the lower loss changes from one model to the other.

    Attributes:
        x: the place; its interval is all places around it where the difference is not known, to 0 or infinity where
            that goes on to the end of the runs.
        loss: there.
        after: the model whose loss is lower beyond.
    """

    x: Estimate
    loss: float
    after: str


class Gap(Record, frozen=True):
    """Two models' loss against what was spent on them.

    Attributes:
        names: of the models.
        x: name of what was spent.
        loss: name of the loss.
        at: places, ``(G,)``.
        curves: the mean loss of each model, ``(2, G)``.
        bands: their intervals, ``(2, 2, G)``.
        ratio: the second model's loss over the first's, ``(G,)``.
        ratio_low: its interval at each place; NaN where there is none.
        ratio_high: its interval's other end.
        lower: at each place 1 where the first model is known to be below the second, -1 where the second is, 0 where
            the difference is not known, ``(G,)``. A stretch counts if it goes beyond what chance does anywhere along
            the curves, so that many places to look at do not make differences of their own.
        crossings: where the lower loss changes.
        losses: at which times are compared.
        factor: what the second needs over what the first needs to come to them.
        runs: of each model.
        notes: what a reader must know.
        level: of the intervals.
        protocol: how they were compared.
        unit: of the loss.
    """

    kind: ClassVar[str] = "gap"

    names: tuple[str, str]
    x: str
    loss: str
    at: Numbers
    curves: Rows
    bands: Planes
    ratio: Numbers
    ratio_low: Numbers
    ratio_high: Numbers
    lower: Numbers
    crossings: list[Crossing]
    losses: list[float]
    factor: list[Estimate]
    runs: tuple[int, int]
    notes: list[str] = msgspec.field(default_factory=list)
    level: float = 0.95
    protocol: dict[str, Any] = msgspec.field(default_factory=dict)
    unit: str = ""

    def __post_init__(self) -> None:
        """Refuse curves of different lengths."""
        try:
            as_arrays(self, "at", "curves", "bands", "ratio", "ratio_low", "ratio_high", "lower")
        except ValueError as error:
            raise ValueError("curves: not of one length") from error
        shape = self.at.shape
        if len(self.at) < 2 or not (self.at > 0).all() or {self.curves.shape, (2, *shape)} != {(2, *shape)}:
            raise ValueError("at: not two and more places above 0, with the loss of both models")
        if self.bands.shape != (2, 2, *shape):
            raise ValueError("bands: not two ends at each place for both models")
        for name in ("ratio", "ratio_low", "ratio_high", "lower"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: not a number for each place")
        if len(self.losses) != len(self.factor):
            raise ValueError("losses: not as many as factors")

    @property
    def needed(self) -> tuple[list[float], list[float]]:
        """What each model needs for the losses; infinite where it does not get there."""
        falling = np.minimum.accumulate(np.log(self.curves), 1)
        first, second = np.exp(reached(np.log(self.at), falling, np.log(self.losses)))
        return first.tolist(), second.tolist()

    @property
    def measured(self) -> bool:
        """Whether there are intervals."""
        return bool(np.isfinite(self.ratio_low).all())

    @property
    def verdict(self) -> str:
        """Which model is lower, and where, in a sentence."""
        a, b = self.names
        parts = stretches(self.lower)
        if not self.lower.any():
            return f"{a} and {b} do not differ measurably anywhere between {self._at(0)} and {self._at(-1)} {self.x}"
        said = []
        for start, stop, sign in parts:
            where = f"from {self._at(start)} to {self._at(stop)} {self.x}"
            if len(parts) == 1:
                where = f"over the whole range, between {self._at(0)} and {self._at(-1)} {self.x}"
            lower, upper = (a, b) if sign > 0 else (b, a)
            said.append(f"{lower} is below {upper} {where}" if sign else f"they do not differ measurably {where}")
        return "; ".join(said) + ("" if self.measured else " (without error bars)")

    def _at(self, place: int) -> str:
        return shown(self.at[place])

    def document(self) -> Document:
        """Which is lower and from where on, the crossings, the times, and both curves."""
        first, second = self.names
        runs = " and ".join(f"{n} run{'s' * (n != 1)} of {name}" for n, name in zip(self.runs, self.names, strict=True))
        lines = [
            Line(name, self.at, curve, colour, (band[0], band[1]))
            for name, curve, band, colour in zip(self.names, self.curves, self.bands, (SERIES[0], CALM), strict=True)
        ]
        drawn = partial(
            figures.curves, lines, label_of(self.x), label_of(self.loss, self.unit),
            crossings=[one.x for one in self.crossings],
        )  # fmt: skip
        shaded = "; where they cross is dotted, and shaded as far as its interval goes" if self.crossings else ""
        curves = Figure(
            f"{self.loss} against {self.x}", drawn, f"The mean loss of {first} and {second}, with intervals{shaded}."
        )
        return Document(
            f"{first} and {second}",
            f"{self.loss} against {self.x}, {runs}",
            [
                self._headline(),
                self._crossings(),
                Section("Where are the two?", [curves]),
                Section(f"How much {self.x} does a loss take?", self._times()),
                *method(self.protocol, self.notes, blind_spots=[UNSEEN]),
            ],
        )

    def _headline(self) -> Headline:
        first, second = self.names
        value, unit, span = float(self.ratio[-1]), f"times the loss of {first}, at the end", NAN_SPAN
        meaning = f"The loss of {second} over that of {first} at {shown(self.at[-1])} {self.x}."
        if self.crossings:
            last = self.crossings[-1]
            value, unit, span = last.x.value, self.x, last.x.span(self.level)
            meaning = (
                f"There the mean curves cross, at {self.loss} = {shown(last.loss)} {self.unit}".rstrip()
                + f"; beyond, {last.after} is lower."
            )
        elif self.level == 0.95:
            span = float(self.ratio_low[-1]), float(self.ratio_high[-1])
        known = self.measured and bool(self.lower.any())
        return Headline(
            f"{self.verdict}.", value, unit, span, meaning, severity="good" if known else "unknown",
            about=self.loss, question="Which one has the lower loss, and from where on?",
        )  # fmt: skip

    def _crossings(self) -> Block:
        if not self.crossings:
            return Paragraph("No crossing.")
        heads = (Column("crossing at"), Column(self.loss, self.unit), Column("lower beyond", kind="text"))
        values = zip(*((one.x, one.loss, one.after) for one in self.crossings), strict=True)
        return estimate_tables.table(f"Crossings in {self.x}", list(zip(heads, values, strict=True)), self.level)

    def _times(self) -> list[Block]:
        if not self.losses:
            return [Paragraph("The two have no loss in common: no times to compare.")]
        first, second = self.names
        heads = (Column(self.loss, self.unit), *map(Column, (first, second, f"{second} / {first}")))
        values: tuple[list[Any], ...] = (self.losses, *self.needed, self.factor)
        columns = list(zip(heads, values, strict=True))
        ratio = figures.ratio(self.losses, self.factor, (second, first), self.x, label_of(self.loss, self.unit))
        return [estimate_tables.table(f"{self.x} to come to a loss", columns, self.level), *ratio]

    def rows(self) -> list[dict[str, Any]]:
        """One row per place."""
        columns = [self.at, *self.curves, self.ratio, self.ratio_low, self.ratio_high]
        heads = (self.x, *self.names, "ratio", "ratio low", "ratio high")
        return [dict(zip(heads, map(float, row), strict=True)) for row in zip(*columns, strict=True)]


def reached(grid: Array, curves: Array, levels: Array) -> Array:
    """Where falling curves come to levels, by linear interpolation; infinite where they do not.

    Args:
        grid: ``(G,)``.
        curves: ``(B, G)``, falling.
        levels: ``(L,)``.

    Returns:
        ``(B, L)``; the first point of the grid where a curve is below a level from the start.
    """
    # A level that a curve just comes to is reached, whatever the last digit of its logarithm.
    return np.array([np.interp(levels + 1e-12, one[::-1], grid[::-1], left=np.inf, right=grid[0]) for one in curves])


def stretches(signs: Any) -> list[tuple[int, int, int]]:
    """First and last place of each stretch of one sign, and the sign.

    >>> stretches(np.array([1, 1, 0, -1]))
    [(0, 1, 1), (2, 2, 0), (3, 3, -1)]
    """
    edges = np.flatnonzero(np.diff(signs)) + 1
    starts, stops = [0, *edges.tolist()], [*(edges - 1).tolist(), len(signs) - 1]
    return [(start, stop, int(signs[start])) for start, stop in zip(starts, stops, strict=True)]
