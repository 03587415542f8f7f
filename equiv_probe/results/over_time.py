"""The losses and the share in bins of an input of the network: to print, to plot, to log and to save."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import structs

from equiv_probe.estimation.estimates import LOGGED, Sums, flattened
from equiv_probe.report.axes import CALM, axes_or_new, figure, short, tidied
from equiv_probe.report.document import TERMINAL, Block, Cell, Column, Document, Figure, Table, Uncertain
from equiv_probe.report.formatting import bar, number, span
from equiv_probe.report.record import Part, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from torch import Tensor

_WIDTH = 12
_NONE = (math.nan, math.nan)


class Bin(Part, frozen=True):
    """One bin ``[low, high)``: the losses of its structures, with standard errors and 95 % intervals over them.

    NaN where there is nothing to estimate it from: no structures, no labels, one structure alone.
    """

    low: float
    high: float
    structures: int
    total: float = math.nan
    total_stderr: float = math.nan
    mean: float = math.nan
    mean_stderr: float = math.nan
    equiv: float = math.nan
    equiv_stderr: float = math.nan
    equiv_interval: tuple[float, float] = _NONE
    share: float = math.nan
    share_stderr: float = math.nan
    share_interval: tuple[float, float] = _NONE

    @classmethod
    def of(cls, low: float, high: float, sums: Sums) -> Bin:
        """From the sums over its structures."""
        count = int(sums.count)
        if not count:
            return cls(low, high, 0)
        return cls(low, high, count, **flattened(sums.by_name, ("equiv", "share")))

    @property
    def label(self) -> str:
        """Its edges, as in logged names."""
        return f"{_plain(self.low)}-{_plain(self.high)}"


class OverTime(Record, frozen=True):
    """``L_total``, ``L_mean``, ``L_equiv`` and the share of one loss in bins of an input of the network.

    Attributes:
        over: name of the input.
        stage: whose steps.
        name: of the loss or output.
        loss: what kind of loss.
        bins: in rising order.
        outside: structures whose value lay outside of all bins; they are in none.
    """

    kind: ClassVar[str] = "bins"

    over: str
    stage: str
    name: str
    loss: str
    bins: tuple[Bin, ...]
    outside: int

    def __post_init__(self) -> None:
        """Refuse an input without bins."""
        if not self.bins:
            raise ValueError("no bins")

    @classmethod
    def of(
        cls, over: str, edges: Sequence[float], key: tuple[str, str], rows: Tensor, *, labelled: bool, loss: str
    ) -> OverTime:
        """From sums by bins, as :meth:`equiv_probe.probe.bins.Over.binned` gives them; fetches them from the device.

        ``key`` is the stage and the output.
        """
        sums = [Sums.from_flat(row) for row in rows.cpu()]
        bins = [Bin.of(low, high, one) for low, high, one in zip(edges[:-1], edges[1:], sums[1:-1], strict=True)]
        outside = int(sums[0].count + sums[-1].count)
        return cls(over, *key, loss if labelled else "squared, without labels", tuple(bins), outside)

    @property
    def edges(self) -> tuple[float, ...]:
        """Edges of the bins."""
        return (*(one.low for one in self.bins), self.bins[-1].high)

    def values(self) -> dict[str, float]:
        """The estimates as ``t_0.1-0.2/share`` and so on, each with ``_stderr``, where there are any."""
        return {
            f"{self.over}_{one.label}/{key}{suffix}": value
            for one in self.bins
            for key, name in LOGGED.items()
            for suffix in ("", "_stderr")
            if math.isfinite(value := getattr(one, name + suffix))
        }

    def document(self) -> Document:
        """The table, and the figure of it."""
        return Document(f"{self.stage}/{self.name}", f"bins of {self.over}", self.blocks())

    def blocks(self) -> list[Block]:
        """A row for each bin, with bars: of the share, or without labels of ``L_equiv``; and a figure of the same."""
        text = "; ".join(_in_words(one) for one in self.bins)
        figure = Figure(f"Over {self.over}: {self.stage}/{self.name}", self.plot, f"{text}.")
        return [replace(self._table(), on=TERMINAL), figure]

    def _table(self) -> Table:
        labelled = any(math.isfinite(one.share) for one in self.bins)
        key = "share" if labelled else "equiv"
        losses = [Column(name) for name in ("L_total", "L_mean", "L_equiv")] if labelled else []
        count = Column("n" if labelled else "structures")
        shown = Column("share of the loss", kind="percent") if labelled else Column("L_equiv")
        interval = Column("95 % interval", kind=shown.kind, digits=2)
        outside = f"; {self.outside} structures outside of all bins" if self.outside else ""
        most = max((getattr(one, key) for one in self.bins if math.isfinite(getattr(one, key))), default=0.0)
        rows: list[list[Cell]] = []
        for one in self.bins:
            row: list[Cell] = [f"{_plain(one.low)} to {_plain(one.high)}"]
            if labelled:
                row += [Uncertain(one.total, one.total_stderr), one.mean, Uncertain(one.equiv, one.equiv_stderr)]
                row += [one.structures, Uncertain(one.share, one.share_stderr), one.share_interval]
            else:
                row += [one.structures, Uncertain(one.equiv, one.equiv_stderr), one.equiv_interval]
            rows.append([*row, bar(getattr(one, key) / most if most > 0 else math.nan, _WIDTH)])
        return Table(
            f"{self.stage}/{self.name} ({self.loss}) over {self.over}{outside}",
            [Column(self.over, kind="text"), *losses, count, shown, interval, Column("", kind="text")],
            rows,
        )

    def rows(self) -> list[dict[str, Any]]:
        """The bins."""
        return [{**structs.asdict(one), **_ends(one)} for one in self.bins]

    @figure
    def plot(self, ax: Axes | None = None) -> Axes:
        """The share against the input, with intervals; without labels ``L_equiv``.

        Raises:
            EquivProbeError: Matplotlib is not installed.
        """
        ax = axes_or_new(ax)
        key = "share" if any(math.isfinite(one.share) for one in self.bins) else "equiv"
        filled = [one for one in self.bins if math.isfinite(getattr(one, key))]
        spread = self.edges[0] > 0 and self.edges[-1] > 50 * self.edges[0]
        unit = 100.0 if key == "share" else 1.0
        for one in filled:
            value, (low, high) = getattr(one, key), getattr(one, f"{key}_interval")
            middle = math.sqrt(one.low * one.high) if spread else (one.low + one.high) / 2
            ax.plot([one.low, one.high], [unit * value] * 2, color=CALM, lw=2)
            if math.isfinite(low + high):
                reach = [[unit * max(value - low, 0)], [unit * max(high - value, 0)]]
                ax.errorbar([middle], [unit * value], yerr=reach, color=CALM, capsize=2)
        ax.set_xscale("log" if spread else "linear")
        ax.set_xlabel(short(self.over))
        ax.set_ylabel("share of the loss, %" if key == "share" else "L_equiv")
        return tidied(ax)


def _in_words(one: Bin) -> str:
    """A bin in words; without labels there is no share of a loss."""
    if not one.structures:
        return f"{one.label}: nothing there"
    has_share = math.isfinite(one.share)
    scale, unit, (low, high) = (100, " %", one.share_interval) if has_share else (1, "", one.equiv_interval)
    ends = span(scale * low, scale * high)
    value = number(scale * (one.share if has_share else one.equiv))
    return f"{one.label}: {'' if has_share else 'L_equiv '}{value}{unit}{f' ({ends})' if ends else ''}"


def _ends(one: Bin) -> dict[str, float]:
    return {
        f"{name}_{end}": value
        for name, ends in (("equiv", one.equiv_interval), ("share", one.share_interval))
        for end, value in zip(("low", "high"), ends, strict=True)
    }


def _plain(value: float) -> str:
    """A number that loggers take as part of a name: no plus sign, no leading zeros in the exponent."""
    text = f"{value:.6g}"
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    return f"{mantissa}e{int(exponent)}"
