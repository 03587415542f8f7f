"""Figures of the landscape: the density of eigenvalues, and the losses along a line, as Matplotlib axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import ALARM, CALM, INK, axes_or_new, figure, tidied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from equiv_probe.estimation.estimates import Estimate
    from equiv_probe.landscape.curvature_estimates import LossCurvature
    from equiv_probe.landscape.growth_exponent import Exponent

    Values = NDArray[np.float64]
    Course = tuple[str, Values, Values]
    """Name of a loss, its values along the line and their standard errors."""

COLOURS = {"L_total": INK, "L_mean": CALM, "L_equiv": ALARM}
DECADES = 6
"""Of the symmetric logarithmic axis, on each side of zero."""
PER_DECADE = 3


@figure
def density(losses: Mapping[str, LossCurvature], ax: Axes | None = None) -> Axes:
    """How many directions bend how much: the number of eigenvalues in bins alike on a symmetric log axis.

    The bin at zero holds what is below about 1e-6 of the largest magnitude. Both axes are logarithmic: outliers are
    single directions among thousands.
    """
    largest = max(float(np.abs(one.density[0]).max()) for one in losses.values())
    largest = largest if largest > 1e-290 else 1.0
    top = math.ceil(math.log10(largest) + 1e-9)
    # Edges lie between round numbers: an eigenvalue of 1 stays in its bin whichever way its last digit falls.
    positive = 10.0 ** (top + (np.arange(-DECADES * PER_DECADE, 1) + 0.5) / PER_DECADE)
    edges = np.concatenate([-positive[::-1], positive])
    ax = axes_or_new(ax)
    for name, one in losses.items():
        nodes, weights = one.density
        counts, _ = np.histogram(nodes, edges, weights=weights * one.size)
        ax.stairs(np.maximum(counts, 0), edges, color=COLOURS[name], lw=1.6, label=name, baseline=None)
    ax.set_xscale("symlog", linthresh=float(positive[0]), linscale=0.4)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.3)
    powers = [top - 1 - k for k in range(0, DECADES - 1, 2)]
    ticks = [(s * 10.0**k, f"{'−' * (s < 0)}1e{k}") for k in powers for s in (-1, 1)]
    ax.set_xticks([0, *(at for at, _ in ticks)], ["0", *(label for _, label in ticks)])
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel(f"eigenvalues of {next(iter(losses.values())).size}")
    ax.legend(loc="best")
    ax.minorticks_off()
    return tidied(ax)


@figure
def ratios(found: Mapping[str, Estimate], ax: Axes | None = None) -> Axes:
    """κ(L_mean) / κ(L_equiv) under every definition of κ, with 95 % intervals: right of one, L_equiv is the better.

    Args:
        found: the ratios by definition.
        ax: to draw into.

    Raises:
        EquivProbeError: one of the two was not measured, or no ratio is a number.
    """
    known = [(kind, one) for kind, one in found.items() if math.isfinite(one.value)]
    if not known:
        raise EquivProbeError("a report without a ratio of condition numbers", 'losses=("mean", "equiv")')
    ax = axes_or_new(ax)
    for row, (_, one) in enumerate(known):
        finite = math.isfinite(one.low + one.high)
        reach = [[max(one.value - one.low, 0)], [max(one.high - one.value, 0)]] if finite else None
        ax.errorbar(one.value, row, xerr=reach, fmt="o", color=CALM, capsize=4, lw=1.8)
    ax.axvline(1, color=INK, lw=1, ls=":")
    ax.set_xscale("log")
    ax.set_yticks(range(len(known)), [kind for kind, _ in known])
    ax.set_ylim(len(known) - 0.5, -0.5)
    ax.set_xlabel("κ(L_mean) / κ(L_equiv)")
    ax.set_ylabel("condition number κ")
    return tidied(ax, grid="x")


@figure
def profile(t: Values, losses: Sequence[Course], ax: Axes | None = None) -> Axes:
    """``L_total``, ``L_mean`` and ``L_equiv`` against t, with bands of two standard errors where there are any."""
    ax = axes_or_new(ax)
    for name, values, errors in losses:
        ax.plot(t, values, color=COLOURS[name], lw=1.8, label=name)
        if np.isfinite(errors).any():
            ax.fill_between(t, values - 2 * errors, values + 2 * errors, color=COLOURS[name], alpha=0.2, lw=0)
    if min(values[np.isfinite(values)].min(initial=np.inf) for _, values, _ in losses) > 0:
        ax.set_yscale("log")
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel("t")
    ax.set_ylabel("loss")
    ax.legend(loc="best")
    return tidied(ax)


@figure
def surfaces(at: Sequence[float], losses: Mapping[str, Values], ax: Axes | None = None) -> Axes:
    """``L_mean`` and ``L_equiv`` as contours side by side over the same plane, each with colours of its own."""
    ax = axes_or_new(ax)
    ax.axis("off")
    for left, colours, (name, surface) in zip((0.1, 0.6), ("Blues", "Oranges"), losses.items(), strict=True):
        panel = ax.inset_axes((left, 0.16, 0.4, 0.72))
        if np.isfinite(surface).all() and np.ptp(surface) > 0:
            drawn = panel.contourf(at, at, surface.T, levels=12, cmap=colours)
            panel.contour(drawn, colors=INK, linewidths=0.4)
        panel.plot(0, 0, "+", color=INK, ms=9)
        panel.set_title(f"{name}: {surface.min():.3g} to {surface.max():.3g}", fontsize="small")
        panel.set_xlabel("a, first direction", fontsize="small")
        panel.set_ylabel("b, second direction" if left < 0.5 else "", fontsize="small")
        panel.tick_params(labelsize="x-small", labelleft=left < 0.5)
        panel.locator_params(nbins=3)
    return ax


@figure
def growth(t: Values, losses: Sequence[Course], exponents: Mapping[str, Exponent], ax: Axes | None = None) -> Axes:
    """``|L(t) − L(0)|`` against ``|t|`` on logarithmic axes, with the fitted powers where there are any."""
    ax = axes_or_new(ax)
    for name, values, _ in losses:
        change = np.abs(values - values[t == 0])
        for side, mark in ((t > 0, "o"), (t < 0, "v")):
            there = side & (change > 0)
            if there.any():
                ax.plot(np.abs(t[there]), change[there], mark, ms=3.5, color=COLOURS[name], mfc="none")
        fit = exponents[name]
        if np.isfinite([fit.power.value, fit.coefficient, fit.low, fit.high]).all() and 0 < fit.low <= fit.high:
            at = np.geomspace(fit.low, fit.high, 30)
            ax.plot(
                at,
                abs(fit.coefficient) * at**fit.power.value,
                color=COLOURS[name],
                lw=1.6,
                label=f"{name} ∝ t^{fit.power.value:.2f}",
            )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("|t|")
    ax.set_ylabel("|L(t) − L(0)|")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best")
    return tidied(ax)
