"""Gradients by group of parameters: how hard broken symmetry pulls on the weights, in a sentence, a table, figures."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import field

from equiv_probe.estimation.estimates import Estimate, flattened
from equiv_probe.report.document import Bound, Column, Document, Figure, Headline, Paragraph, Table, Uncertain
from equiv_probe.report.formatting import number, span, with_error
from equiv_probe.report.record import Part, Record
from equiv_probe.results import gradient_plots

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from equiv_probe.report.document import Block, Cell

HARDLY = 0.1
"""Cosines that are less than this for certain are those of a right angle, or nearly: within 6 degrees of it."""
_NUMBERS = {
    "norm_total": "‖∇L_total‖",
    "norm_mean": "‖∇L_mean‖",
    "norm_equiv": "‖∇L_equiv‖",
    "ratio": "equiv / mean",
    "cosine": "cosine",
}
HEADS = ("parameters", "how many", *_NUMBERS.values())
"""Heads of the columns."""
_CAPTION = (
    "over the latest measurements (± standard error). Norms are free of the length that noise adds; what is less than "
    "its noise is given as the upper end of its 95 % interval."
)


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


def sentence(row: GradientNumbers) -> str:
    """What was found for one group of parameters, with what could not be resolved."""
    (mean, most), (low, high), ratio = row.squared_mean_interval, row.squared_equiv_interval, row.ratio
    if not math.isfinite(mean + low):
        if not math.isfinite(ratio):
            return "From one measurement of two blocks of rotations neither gradient can be distinguished from noise."
        return f"{_pulls(ratio, '')} It has no error bar: that takes three blocks of rotations, or two measurements."
    if mean > 0 and low > 0:
        ends = span(*row.ratio_interval)
        return f"{_pulls(ratio, f' ({ends})' if ends else '')} {_angle(row)}".strip()
    if mean > 0:
        most_of_it = f": at most {number(row.largest_ratio, 2)} times as hard as L_mean does" if high > 0 else ""
        return f"A pull of broken symmetry on the weights could not be resolved{most_of_it}."
    if low > 0:
        least = f": at least {number(math.sqrt(low / most), 2)} times as hard" if most > 0 else ""
        return f"Broken symmetry pulls on the weights{least}; the pull of L_mean could not be resolved."
    return "Neither the gradient of L_equiv nor that of L_mean could be resolved: both are less than their noise."


def _pulls(ratio: float, between: str) -> str:
    return (
        f"Broken symmetry pulls on the weights {number(ratio)} times{between} as hard as L_mean does, "
        "‖∇L_equiv‖ / ‖∇L_mean‖."
    )


def _angle(row: GradientNumbers) -> str:
    """Whether a step down one of the losses helps the other."""
    low, high = row.cosine_interval
    if not math.isfinite(low + high):
        return ""
    cosine = f"cosine {number(row.cosine, 2)}, between {number(low, 2)} and {number(high, 2)}"
    if max(abs(low), abs(high)) < HARDLY:
        return f"The two pull at right angles, or nearly ({cosine}): a small step down one hardly changes the other."
    if low > 0:
        return f"The two pull partly the same way ({cosine}): a small step down one lowers the other, too."
    if high < 0:
        return f"The two pull partly against each other ({cosine}): a small step down one raises the other."
    return f"Whether a step down one helps the other could not be resolved ({cosine})."


class GradientRecord(Record, frozen=True, omit_defaults=True):
    """Gradients of one output by group of parameters.

    Attributes:
        blocks: what they are of: ``"rotations"`` or ``"structures"``.
        groups: what was found, by group; ``"all"`` is of all parameters.
        history: of a run, what was logged at each measurement: ``step``, ``grad_ratio``, ``<group>/grad_ratio`` …
    """

    kind: ClassVar[str] = "gradients"

    blocks: str = field(name="over")
    groups: dict[str, GradientNumbers]
    history: list[dict[str, float]] = field(default_factory=list)

    def document(self) -> Document:
        """How hard broken symmetry pulls on the weights, then its course, then every group."""
        return Document(
            "Gradients of L_mean and L_equiv",
            f"blocks of {self.blocks}",
            [*self._headline(), *self.figures(), self.table("Gradients by group of parameters")],
        )

    def _headline(self) -> list[Headline]:
        if "all" not in self.groups:
            return []
        row, unit = self.groups["all"], "= ‖∇L_equiv‖ / ‖∇L_mean‖"
        meaning = "Of all parameters: how much longer the gradient of L_equiv is than that of L_mean."
        question = "How does it pull on the weights?"
        return [Headline(sentence(row), row.ratio, unit, row.ratio_interval, meaning, about="ratio", question=question)]

    def table(self, title: str, caption: str = "") -> Table:
        """One row for each group of parameters."""
        columns = [Column("parameters", kind="text"), *map(Column, HEADS[1:])]
        rows: list[list[Cell]] = [
            [name, math.nan if row.parameters is None else row.parameters, *(_entry(row, key) for key in _NUMBERS)]
            for name, row in self.groups.items()
        ]
        return Table(title, columns, rows, caption or f"Gradients {_CAPTION}")

    def figures(self, output: str = "") -> list[Figure]:
        """Ratio and cosine over the run, where there is a history; ``output`` names whose gradients they are."""
        of = f": {output}" if output else ""
        return [
            Figure(f"{title}{of}", partial(self.plot, value, output), self._course(value))
            for value, title in (("ratio", "Ratio of the gradients"), ("cosine", "Angle between the gradients"))
            if len(gradient_plots.course(self.history, value))
        ]

    def plot(self, value: str = "ratio", output: str = "", ax: Axes | None = None) -> Axes:
        """The course over a run, see :func:`equiv_probe.results.gradient_plots.history`."""
        return gradient_plots.history(self.history, list(self.groups), value, output, ax)

    def _course(self, value: str) -> str:
        course = gradient_plots.course(self.history, value)
        (first, at_first, its_error), (last, at_last, error) = course[0], course[-1]
        ends = f"{with_error(at_first, its_error)} at step {first:g}"
        if len(course) > 1:
            ends += f", {with_error(at_last, error)} at step {last:g}"
        lost = len(self.history) - len(course)
        missing = f" At {lost} of {len(self.history)} measurements a gradient was less than its noise." if lost else ""
        what = "‖∇L_equiv‖ / ‖∇L_mean‖ of" if value == "ratio" else "Cosine of the angle, of"
        beyond = " Noise may take a cosine beyond one." if value == "cosine" else ""
        return f"{what} all parameters: {ends}. With one standard error, over blocks of rotations.{missing}{beyond}"

    def rows(self) -> list[dict[str, Any]]:
        """A row for every group, without the intervals."""
        names = [name for name in GradientNumbers.__struct_fields__ if not name.endswith("_interval")]
        return [{"group": group, **{name: getattr(row, name) for name in names}} for group, row in self.groups.items()]


def blocks(gradients: Mapping[str, GradientRecord]) -> list[Block]:
    """A sentence, the figures and a table of every output's gradients."""
    many = len(gradients) > 1
    wholes = {name: one.groups.get("all") for name, one in gradients.items()}
    said = [Paragraph(sentence(row) if row else "", name if many else "") for name, row in wholes.items()]
    drawn = [figure for name, one in gradients.items() for figure in one.figures(name)]
    titles = {name: f"Gradients of {name} by group of parameters" for name in gradients}
    return [*said, *drawn, *(one.table(titles[name], f"{titles[name]}, {_CAPTION}") for name, one in gradients.items())]


def _entry(row: GradientNumbers, key: str) -> Cell:
    value = getattr(row, key)
    if math.isfinite(value):
        return Uncertain(value, getattr(row, f"{key}_stderr"))
    high = row.largest_ratio if key == "ratio" else getattr(row, f"{key}_interval")[1]
    return Bound(high) if math.isfinite(high) and key != "cosine" else math.nan
