"""Power laws of the loss in model size, data size or compute, with intervals.

>>> N = [1e3, 1e3, 1e4, 1e4, 1e5, 1e5, 1e6, 1e6]
>>> losses = [0.02 + 5 * n**-0.4 * (1 + 0.02 * (-1) ** i) for i, n in enumerate(N)]
>>> law = fit({"N": N, "L_total": losses}, x="N")
>>> 0.4 in law["alpha"], 0.02 in law["E"]
(True, True)
>>> law.formula
'L_total = E + A·N^−alpha'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling.estimates import Estimate, bca_of, interval_of
from equiv_probe.scaling.fit_checks import (
    correlated,
    notes_of,
    require,
    require_options,
    unbounded,
    uneven,
)
from equiv_probe.scaling.law import Fit, names_of
from equiv_probe.scaling.power_law import LARGEST, SMALLEST, Optimum, bounds_of, optimum
from equiv_probe.scaling.resampling import Resamples, labels, left_out_residuals, of_residuals, of_runs
from equiv_probe.scaling.solver import gradient, predicted, solve
from equiv_probe.scaling.table import Table, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from equiv_probe.scaling.estimates import Interval
    from equiv_probe.scaling.resampling import Bootstrap
    from equiv_probe.scaling.solver import Array


def fit(
    runs: Table | Mapping[str, Any],
    x: str | Sequence[str] = ("N", "D"),
    loss: str = "L_total",
    *,
    floor: float | None = None,
    delta: float | None = None,
    bootstrap: Bootstrap = "residuals",
    interval: Interval = "percentile",
    strata: str | Sequence[str] = (),
    groups: str | Sequence[str] = (),
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    name: str = "",
    unit: str = "",
) -> Fit:
    """Fit ``L = E + A x^−alpha``, or ``L = E + A N^−alpha + B D^−beta``.

    The Huber loss of the residuals of ``log L`` is minimised from many starts (Hoffmann et al., 2022,
    arXiv:2203.15556); intervals come from a bootstrap. They say what the scatter of the runs leaves open. That losses
    follow a power law at all, and follow it beyond the sizes that were run, is an assumption that no interval here
    covers.

    Args:
        runs: one row per run (see :meth:`equiv_probe.scaling.Table.final`), or a mapping of columns.
        x: the column of the variable, or the columns of two: ``"N"`` (parameters), ``"D"`` (structures), ``"C"``
            (compute).
        loss: the column of the loss, in its unit; positive.
        floor: ``E`` where it is known: 0 for labels without noise. None fits it.
        delta: Huber's, for residuals of ``log L``; None is 1.345 robust standard deviations of the residuals.
        bootstrap: what is drawn anew: ``"residuals"`` about the law, good for few runs that scatter alike at all sizes;
            ``"wild"``, their signs, for few runs that do not (its intervals then hold the truth in about 85 % of all
            cases, those of ``"residuals"`` in 65 %); or whole ``"runs"``, for some twenty and more, whatever their
            scatter.
        interval: ``"percentile"``, or ``"bca"`` with ``bootstrap="runs"``.
        strata: columns; runs are drawn within rows that are equal there.
        groups: columns; rows that are equal there are drawn together, such as the steps of one run, or one seed; their
            residuals by one sign for each group, as in ``"wild"``.
        resamples: how many.
        level: of the intervals.
        seed: of the draws.
        name: of what is fitted, such as the model, for titles.
        unit: of the loss, for axes and tables.

    Raises:
        EquivProbeError: fewer than three sizes of a variable (two with a known floor), fewer runs than parameters, a
            loss that is not positive, or not above the floor.
    """
    names = (x,) if isinstance(x, str) else tuple(x)
    require_options(names, bootstrap=bootstrap, interval=interval, resamples=resamples, level=level, delta=delta)
    table = table_of(runs)
    table.require_one("stage", "output")
    values, y = np.column_stack([table.numbers(one) for one in names]), table.numbers(loss)
    require(values, y, names, loss, floor)
    task = _Task(values, y, floor)
    found = optimum(task.z, task.log_y, delta, task.floor)
    own = labels([table[one] for one in _listed(groups)], len(y)) if groups else np.arange(len(y))
    layers = labels([table[one] for one in _listed(strata)], len(y)) if bootstrap == "runs" else own
    notes = notes_of(found, int(own.max()) + 1, task.parameters)
    draws, jackknife = np.empty((0, len(found.theta))), None
    if own.max() >= task.parameters and resamples:
        again = _Bootstrap(bootstrap, interval, layers, own, bool(groups), resamples, seed)
        draws, jackknife, lost = again.fits(task, found)
        notes += [f"{100 * lost:.0f} % of the resamples' fits did not converge."] if lost > 0.01 else []
    natural = task.natural(np.vstack([found.theta, draws]))
    estimates = _estimates(natural, jackknife, floor, level, len(names))
    notes += uneven(task.z, found, names) if bootstrap == "residuals" and not groups else []
    notes += [*unbounded(estimates, natural[0], level, names), *correlated(task.z, names)]
    given = {"floor": floor, "strata": ", ".join(_listed(strata)), "groups": ", ".join(_listed(groups))}
    return Fit(
        x=names,
        loss=loss,
        parameters=dict(zip(names_of(len(names)), estimates, strict=True)),
        draws=natural[1:],
        points=np.column_stack([values, y]),
        scatter=float(np.sqrt((found.residuals**2).sum() / max(len(y) - task.parameters, 1))),
        agreeing=(found.agreeing, found.starts),
        notes=notes,
        level=level,
        protocol={
            "bootstrap of": f"{bootstrap}, {resamples} resamples, {interval} intervals, seed {seed}",
            "Huber's delta": f"{found.delta:.2g} in log {loss}",
            **{key: value for key, value in given.items() if value not in (None, "")},
        },
        name=name,
        source=table.source,
        unit=unit,
    )


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


class _Task:
    """The runs in logarithms about their means, and the way back."""

    def __init__(self, values: Array, y: Array, floor: float | None) -> None:
        self.centre, self.scale = np.log(values).mean(0), float(np.exp(np.log(y).mean()))
        self.z, self.log_y = np.log(values) - self.centre, np.log(y / self.scale)
        self.floor = None if floor is None else floor / self.scale
        self.parameters = 1 + 2 * values.shape[1] - (floor is not None)

    def refit(self, samples: Resamples, found: Optimum) -> tuple[Array, float]:
        """Fits of resamples, and the part that did not converge."""
        starts = np.tile(found.theta, (3, 1))
        for start, exponent in zip(starts[1:], (0.3, 1.0), strict=True):
            lowest = np.exp(np.log(predicted(found.theta, self.z)).min())
            start[0] = 0.5 * lowest if self.floor is None else self.floor
            start[1::2], start[2::2] = np.maximum(start[1::2], 0.05), exponent
        bounds = bounds_of(self.z.shape[1], self.floor)
        theta, _, converged = solve(self.z, samples.log_y, samples.weights, starts, bounds=bounds, delta=found.delta)
        return theta, float(np.mean(converged == 0))

    def natural(self, thetas: Array) -> Array:
        """Parameters in the data's own units; an exponent whose term is not there is unknown."""
        natural = thetas.copy()
        natural[:, 0] *= self.scale
        with np.errstate(over="ignore"):
            natural[:, 1::2] = thetas[:, 1::2] * self.scale * np.exp(thetas[:, 2::2] * self.centre)
        natural[:, 2::2] = np.where(thetas[:, 1::2] <= 1e-9, np.nan, thetas[:, 2::2])
        return natural


@dataclass(frozen=True)
class _Bootstrap:
    """What is drawn anew, and how often; see :func:`fit`."""

    of: Bootstrap
    interval: Interval
    strata: NDArray[np.intp]
    units: NDArray[np.intp]
    grouped: bool
    resamples: int
    seed: int

    def fits(self, task: _Task, found: Optimum) -> tuple[Array, Array | None, float]:
        """Of resamples and, where intervals want it, without each unit; and the part that did not converge."""
        if self.interval == "bca" and self.of != "runs":
            raise EquivProbeError('interval="bca" of residuals', "resampled runs", 'bootstrap="runs"')
        draws, lost = task.refit(self._samples(task, found), found)
        if self.interval != "bca":
            return draws, None, lost
        without = (np.arange(int(self.units.max()) + 1)[:, None] != self.units).astype(float)
        same = np.broadcast_to(task.log_y, without.shape)
        return draws, task.natural(task.refit(Resamples(same, without), found)[0]), lost

    def _samples(self, task: _Task, found: Optimum) -> Resamples:
        if self.of == "runs":
            return of_runs(task.log_y, self.strata, self.units, self.resamples, self.seed)
        groups, left = (self.units if self.grouped or self.of == "wild" else None), found.residuals
        if groups is not None:
            left = left_out_residuals(left, hat_of(found, task.z, task.floor), groups)
        law, how = np.log(predicted(found.theta, task.z)), {"resamples": self.resamples, "seed": self.seed}
        return of_residuals(law, left, task.parameters, groups=groups, **how)


def hat_of(found: Optimum, z: Array, floor: float | None) -> Array:
    """What the fit makes of small changes of ``log L``, ``(n, n)``, symmetric: of runs as they are weighed."""
    low, high = bounds_of(z.shape[1], floor)
    moves = (found.theta > low) & (found.theta < high)
    weights = np.sqrt(1 / np.maximum(1.0, np.abs(found.residuals) / found.delta))
    slopes = gradient(found.theta, z)[1][:, moves] * weights[:, None]
    orthonormal = np.linalg.qr(slopes)[0]
    return np.asarray(orthonormal @ orthonormal.T)


def _estimates(
    natural: Array, jackknife: Array | None, floor: float | None, level: float, variables: int
) -> list[Estimate]:
    found = []
    for place in range(1 + 2 * variables):
        value, draws = natural[0, place], natural[1:, place]
        if place == 0 and floor is not None:
            found.append(Estimate(value, value, value))
            continue
        low, high = interval_of(draws, level)
        if jackknife is not None:
            low, high = bca_of(draws, value, jackknife[:, place], level)
        if place and place % 2 == 0:
            low = 0.0 if low <= SMALLEST * 1.01 else low
            high = np.inf if high >= LARGEST * 0.999 else high
        found.append(Estimate(float(value), low, high))
    return found
