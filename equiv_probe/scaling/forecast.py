"""Where the share of a run is going, from its history so far; and what the simple law of the dip makes of it.

The law: share = ``L_equiv / (L_mean + L_equiv)``, each loss a power of the step above a floor. It was tested on the
runs of ``integrations/`` (``integrations/learning_rotation/forecast.py``), and does **not** predict: real curves are
plateaus with falls between them, in which ``L_equiv`` rises, and the share at the end of the history is a better guess
of a later share than the law. So a forecast is that share, with the interval that the shares of real runs kept to;
the law is fitted and shown beside it as what it is, a hypothesis.

>>> steps = np.geomspace(10, 1e4, 40)
>>> history = {"step": steps, "L_mean": 40 * steps**-0.8, "L_equiv": 0.01 + 40 * steps**-1.2}
>>> found = forecast(history, to=2e4)
>>> f"{found.share.value:.3f}, by the laws {found.law_share.value:.3f}, lowest at step {found.dip_step.value:.0f}"
'0.296, by the laws 0.415, lowest at step 565'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling.dip import dips, limits, shares
from equiv_probe.scaling.estimates import Estimate, estimate_of
from equiv_probe.scaling.fitting import fit
from equiv_probe.scaling.forecast_result import FALLING, LOSSES, Forecast
from equiv_probe.scaling.learning_curves import learning_curves, settled_from
from equiv_probe.scaling.table import Table, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equiv_probe.scaling.law import Fit
    from equiv_probe.scaling.solver import Array

WANDER = {True: 0.55, False: 1.4}
"""How far the log odds of the share of real runs had gone, as a standard deviation for each factor of e in steps: of
runs whose ``L_mean`` was falling fast, and of others. They went in proportion to the logarithm of the steps."""
RECENT = 3.2
"""The last steps by which a run is judged: those within this factor of its last one."""


def forecast(
    history: Table | Mapping[str, Any],
    to: float | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    name: str = "",
    unit: str = "",
) -> Forecast:
    """The share at a later step: today's, with the interval that shares of real runs kept to.

    The share's log odds go ``± z · w · log(to / step)`` from where they are: ``w`` is 0.55 where ``L_mean`` falls
    faster than the root of the steps, and 1.4 elsewhere, as measured on the runs of the studies. Beside it stand the
    laws ``E + A step^−alpha`` of both losses (:func:`fit`), fitted where one law holds, and what follows if they go on:
    the share, where it is lowest, and where it ends.

    Args:
        history: one row per measurement: ``step``, ``L_equiv`` and ``L_mean`` or ``L_total``, of one stage and output.
        to: the step; None is twice the last one.
        resamples: of each law's bootstrap.
        level: of the intervals.
        seed: of the draws.
        name: of the run, for titles.
        unit: of the losses.

    Raises:
        EquivProbeError: a history too short (fewer than four places evenly spaced in log step), or of several runs; a
            step that is not after the history.
    """
    table = table_of(history)
    rows, notes = learning_curves(table)
    steps, known = table.numbers("step"), np.isfinite(table.numbers("L_equiv"))
    last, end = float(steps[known].max()), float(np.nanmax(steps))
    if last < end:
        notes = [*notes, f"L_equiv is known up to step {last:g} of {end:g}: today is there."]
    to = 2 * last if to is None else float(to)
    if not last < to < np.inf:
        raise EquivProbeError(f"to={to:g} of a history up to step {last:g}", "a later step", f"to={2 * last:g}")
    laws = {loss: _law(rows, loss, resamples, level, seed) for loss in LOSSES}
    falling, odds, error = _recent(rows)
    wander = WANDER[falling < FALLING]
    mean, equiv = (np.vstack([law.values, law.draws]) for law in laws.values())
    start = max(law.range["step"][0] for law in laws.values())
    dip_steps, dip_shares = dips(mean, equiv, start)
    reach = norm.ppf((1 + level) / 2) * np.hypot(error, [0, wander * np.log(to / last)])
    now, lows, highs = float(expit(odds)), expit(odds - reach).tolist(), expit(odds + reach).tolist()
    return Forecast(
        step=last,
        to=to,
        today=Estimate(now, lows[0], highs[0]),
        share=Estimate(now, lows[1], highs[1]),
        law_share=_estimate(shares(mean, equiv, np.array([to]))[:, 0], level),
        dip_step=_estimate(dip_steps, level),
        dip_share=_estimate(dip_shares, level, highest=1.0),
        limit=_estimate(limits(mean, equiv), level),
        laws=laws,
        history=rows,
        falling=falling,
        odds_stderr=error,
        wander=wander,
        notes=notes,
        level=level,
        protocol={"places": len(rows), "bootstrap of": f"residuals, {resamples} resamples, seed {seed}"},
        name=name,
        source=table.source,
        unit=unit,
    )


def _law(rows: Array, loss: str, resamples: int, level: float, seed: int) -> Fit:
    """The law of a loss where it holds; the two are drawn independently."""
    column = 1 + LOSSES.index(loss)
    own = rows[settled_from(rows[:, 0], rows[:, column]) :]
    runs = {"step": own[:, 0], loss: own[:, column]}
    return fit(runs, "step", loss, resamples=resamples, level=level, seed=seed + column)


def _recent(rows: Array) -> tuple[float, float, float]:
    """How ``L_mean`` falls now (slope in logarithms), and the log odds of the share now, with their standard error."""
    u = np.log(rows[:, 0] / rows[-1, 0])
    own = np.flatnonzero(u >= -np.log(RECENT))
    own = own if len(own) >= 3 else np.arange(len(u) - 3, len(u))
    odds = np.log(rows[:, 2] / rows[:, 1])
    slope = float(np.polyfit(u[own], np.log(rows[own, 1]), 1)[0])
    line = np.polyfit(u[own], odds[own], 1)
    scatter = np.sqrt(((odds[own] - np.polyval(line, u[own])) ** 2).sum() / (len(own) - 2))
    return slope, float(odds[-1]), float(scatter)


def _estimate(values: Array, level: float, highest: float = np.inf) -> Estimate:
    """The first value with the interval of the others; nothing where there is no first."""
    if np.isnan(values[0]):
        return Estimate(float("nan"))
    found = estimate_of(values[0], values[1:], level)
    return Estimate(found.value, found.low, min(found.high, highest))
