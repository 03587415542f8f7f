"""Learning curves on one logarithmic axis: interpolated, averaged over seeds, and drawn anew.

A model's curve is the geometric mean over its runs. What other seeds would have given is drawn with Student's
multipliers: the runs' deviations from their mean, each with a normal weight, over the root of a chi square. At every
point that is Student's t interval of the mean, which is exact for normal scatter even of two runs, where resampling the
runs themselves is far too narrow; and a draw is a whole curve, so that crossings and times can be read off it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.ndimage import median_filter

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from equiv_probe.scaling.solver import Array
    from equiv_probe.scaling.table import Table

Smooth = Literal["minimum", "median", "none"]
WINDOW = 5
"""Points of the running median."""


@dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        x: steps or seconds, positive and ascending, ``(T,)``.
        loss: ``(T,)``, or ``(T, S)`` for each of ``S`` held-out structures.
        stderr: of the loss over structures, ``(T,)``; NaN where it is not known.
        structures: names of the held-out structures, ``(S,)``.
    """

    x: Array
    loss: Array
    stderr: Array
    structures: tuple[str, ...] = ()

    @property
    def mean(self) -> Array:
        """Over structures, ``(T,)``."""
        return np.asarray(self.loss if self.loss.ndim == 1 else self.loss.mean(1))


def curves_of(table: Table, x: str, loss: str, seeds: str, structure: str) -> list[Curve]:
    """The runs of a model.

    Raises:
        EquivProbeError: fewer than two points, or structures that are not at every point.
    """
    table.require_one("stage", "output")
    column = next((name for name in (seeds, "run") if name in table), None)
    parts = [table] if column is None else list(table.by(column).values())
    return [_curve(part, x, loss, structure) for part in parts]


def _curve(table: Table, x: str, loss: str, structure: str) -> Curve:
    at, values = table.numbers(x), table.numbers(loss)
    kept = np.isfinite(at) & np.isfinite(values) & (at > 0)  # step 0 has no place on a logarithmic axis
    if structure not in table:
        kept &= values > 0
    table, at, values = table.take(kept), at[kept], values[kept]
    places, row = np.unique(at, return_inverse=True)
    if len(places) < 2:
        raise EquivProbeError(f"{len(places)} points of {loss} against {x} in {table.source or 'a run'}", "two or more")
    if structure in table:
        names = list(dict.fromkeys(map(str, table[structure])))
        matrix = np.full((len(places), len(names)), np.nan)
        matrix[row, [names.index(str(name)) for name in table[structure]]] = values
        if np.isnan(matrix).any():
            raise EquivProbeError(f"structures that lack a loss at some {x}", "every structure at every point")
        return Curve(places, matrix, np.full(len(places), np.nan), tuple(names))
    if len(places) < len(at):
        raise EquivProbeError(
            f"{len(at)} rows at {len(places)} values of {x}",
            "one row each in a run",
            f'a column "seed" that distinguishes runs, or table.where(...), or {structure}=',
        )
    order = np.argsort(at)
    name = f"{loss}_stderr"
    errors = table.numbers(name)[order] if name in table else np.full(len(at), np.nan)
    return Curve(places, values[order], errors)


def smoothed(values: Array, smooth: Smooth) -> Array:
    """A curve, ``(..., T)``, without its noise: its running minimum, or a running median of five points.

    >>> smoothed(np.array([4.0, 2.0, 3.0, 1.0]), "minimum").tolist()
    [4.0, 2.0, 2.0, 1.0]
    """
    if smooth == "minimum":
        return np.asarray(np.minimum.accumulate(values, -1))
    if smooth == "median":
        return median_filter(values, (*[1] * (values.ndim - 1), WINDOW), mode="nearest")
    if smooth == "none":
        return values
    raise EquivProbeError(f"smooth={smooth!r}", '"minimum", "median" or "none"')


def common_grid(sides: list[list[Curve]], points: int = 200) -> Array:
    """Logarithms of x where all runs have values: evenly spaced, with every run's own points.

    Raises:
        EquivProbeError: the runs have no range in common.
    """
    runs = [curve for side in sides for curve in side]
    low, high = max(curve.x[0] for curve in runs), min(curve.x[-1] for curve in runs)
    if low >= high:
        spans = " and ".join(f"{min(c.x[0] for c in s):g} to {max(c.x[-1] for c in s):g}" for s in sides)
        raise EquivProbeError(f"runs over {spans}", "a range that all runs have", "longer runs, or measured more often")
    own = np.concatenate([curve.x[(curve.x >= low) & (curve.x <= high)] for curve in runs])
    if len(own) > 4 * points:
        own = own[:: len(own) // (2 * points)]
    return np.unique(np.log(np.concatenate([np.geomspace(low, high, points), own, [low, high]])))


def on_grid(curve: Curve, grid: Array, smooth: Smooth, loss: Array | None = None) -> Array:
    """Logarithms of a run's smoothed loss, interpolated in logarithms of both.

    Returns:
        ``(..., G)``.
    """
    values = np.log(smoothed(curve.mean if loss is None else loss, smooth))
    return np.asarray(make_interp_spline(np.log(curve.x), values, k=1, axis=-1)(grid))


def drawn(
    curves: list[Curve],
    grid: Array,
    smooth: Smooth,
    resamples: int,
    generator: np.random.Generator,
    *,
    times: Array | None,
) -> Array:
    """What a model's mean log-loss curve might have been, ``(B, G)``.

    Args:
        curves: its runs.
        grid: logarithms of x, ``(G,)``.
        smooth: how.
        resamples: ``B``.
        generator: of the draws.
        times: how often a resample has each held-out structure, ``(B, S)``, where losses are by structure.
    """
    if curves[0].structures and times is not None:
        weights = times / times.sum(1, keepdims=True)
        own = np.stack([on_grid(c, grid, smooth, np.maximum(weights @ c.loss.T, 1e-300)) for c in curves])
    else:
        own = np.stack([on_grid(c, grid, smooth) for c in curves])[:, None]
    count = len(curves)
    if count > 1:
        best = np.stack([on_grid(c, grid, smooth) for c in curves])
        apart = best - best.mean(0)
        normal = generator.standard_normal((resamples, count))
        tails = np.sqrt((count - 1) / generator.chisquare(count - 1, (resamples, 1)))
        return np.asarray(own.mean(0) + tails * (normal @ apart) / np.sqrt(count * (count - 1)))
    draws = np.broadcast_to(own.mean(0), (resamples, len(grid)))
    if times is None and np.isfinite(curves[0].stderr).all():
        # The same structures at every point: their error is common to the whole curve.
        relative = curves[0].stderr / curves[0].mean
        error = np.interp(grid, np.log(curves[0].x), relative)
        draws = draws + generator.standard_normal((resamples, 1)) * error
    return draws
