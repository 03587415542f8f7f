"""What all figures share: axes, colours that everybody can distinguish, a quiet grid, and text that is never markup."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.document import HEIGHT, WIDTH
from equiv_probe.report.formatting import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

P = ParamSpec("P")
T = TypeVar("T")

INK, LINE, CALM, ALARM = "#222222", "#cccccc", "#0072b2", "#d55e00"
"""Text, grid, ``L_mean``, ``L_equiv``: blue and vermilion of Okabe and Ito, which everybody can distinguish."""
SERIES = (ALARM, CALM, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LONGEST = 28
"""Characters of a name from a file: longer ones leave no room for the figure."""
SIZE = (WIDTH, HEIGHT)
"""Size of a figure in inches: readable at the width of a phone."""


def short(name: str) -> str:
    """A name on one line, with its middle left out where it is too long to stand beside an axis."""
    name = shown(" ".join(name.split()))
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[: half - 1]}…{name[-half:]}"


def figure(draw: Callable[P, T]) -> Callable[P, T]:
    """Draw names that come from files as they are: dollar signs in them are no formulas.

    Raises:
        EquivProbeError: Matplotlib is not installed.
    """

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            from matplotlib import rc_context
        except ImportError as error:
            raise EquivProbeError("no matplotlib", "Matplotlib", "pip install 'equiv-probe[report]'") from error
        with rc_context({"text.parse_math": False, "legend.frameon": False}):
            return draw(*args, **kwargs)

    return drawn


def axes_or_new(ax: Axes | None, **how: Any) -> Axes:
    """The given axes, or those of a new figure of pyplot's, which shows itself in notebooks and by ``plt.show()``."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    new: Axes = pyplot.figure(figsize=SIZE, layout="constrained").add_subplot(**how)
    return new


def is_near(line: float, values: Any) -> bool:
    """Whether a line fits in beside values without squeezing them: not twenty times below, nor above."""
    return bool(line > 0 and min(values) / 20 < line < 20 * max(values))


def below(ax: Axes, values: Any, what: str, colour: str = ALARM, label: str | None = None) -> None:
    """For each of some values, in rising order, the percentage of them (of ``what`` they are of) that lies below."""
    percent = [100 * k / len(values) for k in range(len(values) + 1)]
    ax.step([values[0], *values], percent, where="post", color=colour, lw=2, label=label)
    ax.set_ylim(0, 103)
    ax.set_ylabel(f"{what} below, %")


def legend_above(ax: Axes, columns: int = 2) -> None:
    """A legend above the axes, where there is anything to name."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)


def tidied(ax: Axes, grid: str = "both") -> Axes:
    """No box, a quiet grid behind the data, and numbers as people write them."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(visible=True, axis=grid, color=LINE, lw=0.7)  # type: ignore[arg-type]
    for one in (ax.xaxis, ax.yaxis):
        one.label.set_parse_math(False)  # axes of the caller's own were made outside of ``figure``
        if one.get_scale() == "log":
            one.set_major_formatter(FuncFormatter(lambda value, _: re.sub(r"e\+?(-?)0*", r"e\1", f"{value:g}")))
            one.set_minor_formatter(NullFormatter())
    return ax
