"""Gradients of a run against its steps, as Matplotlib axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import INK, SERIES, axes_or_new, figure, short, tidied
from equiv_probe.report.formatting import finite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

LABELS = {
    "ratio": "‖∇L_equiv‖ / ‖∇L_mean‖",
    "cosine": "cosine of the angle",
    "norm_L_mean": "‖∇L_mean‖",
    "norm_L_equiv": "‖∇L_equiv‖",
}
"""What is kept of every measurement, by the end of its name in the history."""
BARS = 40
"""Measurements up to which each has its own error bar; beyond, there is a band."""


def course(history: Sequence[Mapping[str, Any]], value: str, group: str = "") -> NDArray[np.float64]:
    """Step, value (one of :data:`LABELS`) and standard error at every measurement of a group, ``(M, 3)``."""
    key = f"{group}/grad_{value}" if group else f"grad_{value}"
    rows = [[finite(entry.get(name)) for name in ("step", key, f"{key}_stderr")] for entry in history]
    found = np.array(rows, dtype=float).reshape(-1, 3)
    return np.asarray(found[np.isfinite(found[:, :2]).all(1)])


@figure
def history(
    entries: Sequence[Mapping[str, Any]],
    groups: Sequence[str],
    value: str = "ratio",
    output: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A number of the gradients over the course of a run: of all parameters with its standard error, and by group.

    Args:
        entries: the history of one output.
        groups: of parameters.
        value: ``"ratio"``, ``"cosine"``, ``"norm_L_mean"`` or ``"norm_L_equiv"``.
        output: whose gradients they are.
        ax: to draw into.

    Raises:
        EquivProbeError: there is no such history.
    """
    if value not in LABELS:
        raise EquivProbeError(f"value={value!r}", f"one of {', '.join(LABELS)}")
    all_of_them = course(entries, value)
    if not len(all_of_them):
        found = f"a report without a history of gradients{f' of {output}' if output else ''}"
        raise EquivProbeError(found, "the report of a run", "EquivarianceCallback(gradients=True)")
    ax = axes_or_new(ax)
    groups = [group for group in groups if group != "all"]
    for place, group in enumerate(groups[: len(SERIES)] if len(groups) > 1 else ()):
        at, values, _ = course(entries, value, group).T
        ax.plot(at, values, color=SERIES[place], lw=1.2, marker=".", ms=4, label=short(group))
    at, values, errors = all_of_them.T
    low, high = _bars(values, np.nan_to_num(errors), is_log=_scale(ax, value, values))
    name = "all parameters"
    if len(at) < BARS:
        ax.errorbar(
            at, values, (values - low, high - values), color=INK, lw=1.8, capsize=3, marker="o", ms=4, label=name
        )
    else:
        ax.plot(at, values, color=INK, lw=1.8, label=name)
        ax.fill_between(at, low, high, color=INK, alpha=0.2, lw=0)
    ax.set_xlabel("training step")
    ax.set_ylabel(LABELS[value])
    if len(groups) > 1:
        handles, labels = ax.get_legend_handles_labels()
        # Above the axes: lines that cross them leave no free corner.
        ax.legend(
            handles[-1:] + handles[:-1],
            labels[-1:] + labels[:-1],
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=3,
        )
    return tidied(ax)


def _bars(
    values: NDArray[np.float64], errors: NDArray[np.float64], *, is_log: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of one standard error: factors where the axis is logarithmic."""
    if not is_log:
        return values - errors, values + errors
    factors = np.exp(np.minimum(errors / values, 100.0))
    return values / factors, values * factors


def _scale(ax: Axes, value: str, values: NDArray[np.float64]) -> bool:
    """The scale of the axis of values, and whether it is logarithmic."""
    if value == "cosine":
        ax.axhline(0, color=INK, lw=0.8, ls=":")
        reach = max(1.0, float(np.abs(values).max()))  # noise may take a cosine beyond one
        ax.set_ylim(-1.05 * reach, 1.05 * reach)
    elif values.min() > 0 and values.max() > 20 * values.min():
        ax.set_yscale("log")
        return True
    return False
