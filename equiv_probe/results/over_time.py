"""The losses and the share in bins of an input of the network: to print, to plot, to log and to save."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from equiv_probe.estimation.estimates import Sums
from equiv_probe.report.formatting import interval, number, table_of, with_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from rich.table import Table
    from torch import Tensor

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_WIDTH = 12
_NONE = (math.nan, math.nan)


@dataclass(frozen=True)
class Bin:
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
        total, mean, equiv, share = sums.total, sums.mean, sums.equiv, sums.share
        return cls(
            low,
            high,
            count,
            total.value,
            total.stderr,
            mean.value,
            mean.stderr,
            equiv.value,
            equiv.stderr,
            (equiv.low, equiv.high),
            share.value,
            share.stderr,
            (share.low, share.high),
        )

    @property
    def label(self) -> str:
        """Its edges, as in logged names."""
        return f"{_plain(self.low)}-{_plain(self.high)}"


@dataclass(frozen=True)
class OverTime:
    """``L_total``, ``L_mean``, ``L_equiv`` and the share of one loss in bins of an input of the network.

    Attributes:
        over: name of the input.
        stage: whose steps.
        name: of the loss or output.
        loss: what kind of loss.
        bins: in rising order.
        outside: structures whose value lay outside of all bins; they are in none.
    """

    over: str
    stage: str
    name: str
    loss: str
    bins: tuple[Bin, ...]
    outside: int

    @classmethod
    def of(
        cls, over: str, edges: Sequence[float], key: tuple[str, str], rows: Tensor, *, labelled: bool, loss: str
    ) -> OverTime:
        """From sums by bins; fetches them from the device.

        Args:
            over: name of the input.
            edges: of the bins.
            key: stage and output.
            rows: as :meth:`equiv_probe.probe.bins.Over.binned` gives them.
            labelled: whether there are labels.
            loss: what kind of loss.
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
        keys = {"L_total": "total", "L_mean": "mean", "L_equiv": "equiv", "share": "share"}
        found = {}
        for one in self.bins:
            for key, field_name in keys.items():
                for suffix in ("", "_stderr"):
                    value = getattr(one, field_name + suffix)
                    if math.isfinite(value):
                        found[f"{self.over}_{one.label}/{key}{suffix}"] = value
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> OverTime:
        """Undo :meth:`to_dict`; None is NaN."""
        bins = []
        for one in stored["bins"]:
            fields: dict[str, Any] = {key: math.nan if value is None else value for key, value in one.items()}
            for key in ("equiv_interval", "share_interval"):
                fields[key] = tuple(math.nan if end is None else end for end in one[key])
            bins.append(Bin(**fields))
        return cls(**{**stored, "bins": tuple(bins)})

    def table(self) -> Table:
        """A row for each bin, with bars: of the share, or without labels of ``L_equiv``."""
        labelled = any(math.isfinite(one.share) for one in self.bins)
        key = "share" if labelled else "equiv"
        shown = "share of the loss" if labelled else "L_equiv"
        losses = ("L_total", "L_mean", "L_equiv") if labelled else ()
        columns = (self.over, *losses, "n" if labelled else "structures", shown, "95 % interval")
        outside = f"; {self.outside} structures outside of all bins" if self.outside else ""
        made = table_of(f"{self.stage}/{self.name} ({self.loss}) over {self.over}{outside}", *columns)
        made.add_column("", justify="left", no_wrap=True)
        most = max((getattr(one, key) for one in self.bins if math.isfinite(getattr(one, key))), default=0.0)
        for one in self.bins:
            cells = [f"{_plain(one.low)} to {_plain(one.high)}"]
            if labelled:
                cells += [with_error(one.total, one.total_stderr), number(one.mean)]
                cells += [with_error(one.equiv, one.equiv_stderr), str(one.structures)]
                share = with_error(100 * one.share, 100 * one.share_stderr)
                low, high = (number(100 * end, 2) for end in one.share_interval)
                cells += [f"{share} %" if one.structures else share, f"[{low}, {high}] %" if "–" not in low else ""]
            else:
                cells += [str(one.structures), with_error(one.equiv, one.equiv_stderr), interval(*one.equiv_interval)]
            made.add_row(*(Text(cell) for cell in cells), Text(_bar(getattr(one, key), most)))
        return made

    def __rich_console__(self, console: Any, options: Any) -> Any:
        """The table."""
        yield self.table()

    def __str__(self) -> str:
        out = StringIO()
        Console(file=out, width=120, highlight=False, color_system=None).print(self.table())
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def plot(self, ax: Axes | None = None) -> Axes:
        """The share against the input, with intervals; without labels ``L_equiv``.

        Args:
            ax: to draw into; None takes those of a new figure of pyplot's.

        Returns:
            The axes.

        Raises:
            EquivProbeError: Matplotlib is not installed.
        """
        from equiv_probe.results import plots

        return plots.profile(self, ax=ax)


def _plain(value: float) -> str:
    """A number that loggers take as part of a name: no plus sign, no leading zeros in the exponent."""
    text = f"{value:.6g}"
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    return f"{mantissa}e{int(exponent)}"


def _bar(value: float, most: float) -> str:
    if not (math.isfinite(value) and most > 0):
        return ""
    eighths = round(8 * _WIDTH * max(value, 0.0) / most)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
