"""Both losses of a run against its steps, as forecasts need them: without noise that repeats, and without the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling.power_law import bounds_of, starts_of
from equiv_probe.scaling.solver import predicted, solve
from equiv_probe.scaling.table import Table, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equiv_probe.scaling.solver import Array

PER_DECADE = 8
"""Places at which a history is averaged, for each factor of ten in steps."""
TOO_OFTEN = 0.25
"""Of the last places, that an estimate which is above zero may be below it by chance."""
FEWEST = 4
"""Places that a law of three parameters needs, with one to see how far they scatter."""
SEVERAL = 1.5
"""Rows for each step from which on a table is of several runs, and not of one that was begun again."""
DELTA = 0.1
"""Huber's, of log losses, while it is sought where the law begins."""
LOOSER = 1.5
"""How much larger than the noise residuals may be where a law holds."""
SMOOTH = 0.01
"""The least noise of log losses: smoother curves are no better known than that."""


def learning_curves(history: Table | Mapping[str, Any]) -> tuple[Array, list[str]]:
    """Steps and both losses at places evenly spaced in the logarithm of the step: medians over what lies between them.

    Errors of neighbouring measurements are alike (the same held-out structures, weights that have hardly changed), and
    linear steps crowd at the end: a median for each stretch of equal ratio leaves places that are nearly independent,
    and as many of them at the start as at the end. Estimates of ``L_equiv`` may be negative; their medians count.

    Args:
        history: columns ``step``, ``L_equiv`` and ``L_mean`` or ``L_total``.

    Returns:
        Rows of step, ``L_mean``, ``L_equiv``, ``(n, 3)``; and notes.

    Raises:
        EquivProbeError: several stages or outputs, fewer than four places, or a column is missing.

    >>> rows, _ = learning_curves({"step": [1, 2, 4, 8, 16], "L_total": [4, 3, 2.5, 2.2, 2], "L_equiv": [1] * 5})
    >>> rows[-1].round(6).tolist()
    [16.0, 1.0, 1.0]
    """
    table = table_of(history)
    table.require_one("stage", "output", "run", "model", "seed")
    step, equiv = table.numbers("step"), table.numbers("L_equiv")
    mean = table.numbers("L_mean") if "L_mean" in table else table.numbers("L_total") - equiv
    there = np.isfinite(step) & np.isfinite(mean) & np.isfinite(equiv) & (step > 0)
    values = np.column_stack([step, mean, equiv])[there]
    steps = len(np.unique(values[:, 0]))
    if len(values) >= SEVERAL * steps > 0:
        raise EquivProbeError(
            f"{len(values)} rows at {steps} steps", "one run", "table.where(column=value), or --where column=value"
        )
    place = np.floor(PER_DECADE * np.log10(values[:, 0]) + 1e-9)
    own = [values[place == one] for one in np.unique(place)]
    rows = np.array([[np.exp(np.log(one[:, 0]).mean()), *np.median(one[:, 1:], 0)] for one in own]).reshape(-1, 3)
    positive = np.asarray((rows > 0).all(1))
    if positive.sum() < FEWEST:
        raise EquivProbeError(
            f"a history with both losses above zero at {positive.sum()} places, evenly spaced in log step",
            f"{FEWEST} or more, {PER_DECADE} of which are a factor of ten in steps",
            "measure more often, or wait",
        )
    recent = ~positive[-PER_DECADE:]
    if recent.mean() > TOO_OFTEN:  # those that are left are above zero by choice, or those of long ago
        raise EquivProbeError(
            f"losses that are not above zero at {recent.sum()} of the last {len(recent)} places, evenly spaced in log "
            "step: today's share is not told from zero",
            "losses above zero",
            "measure with more rotations or structures, or cut the history where it ends",
        )
    lost = int((~positive).sum())
    notes = [f"At {lost} of {len(rows)} places a loss is not above zero: left out."] if lost else []
    return rows[positive], notes


def settled_from(step: Array, loss: Array) -> int:
    """The first place from which on one power law with a floor holds: what is before it is the start of training.

    A law holds if its residuals are not much larger than what neighbouring places differ by: the scatter of second
    differences of the logarithms. If none does, the last few places are what is fitted.
    """
    z, log_y = (np.log(step) - np.log(step).mean())[:, None], np.log(loss) - np.log(loss).mean()
    noise = 1.4826 * np.median(np.abs(np.diff(log_y, 2))) / np.sqrt(6)
    first = np.arange(len(step) - FEWEST + 1)
    kept = (np.arange(len(step)) >= first[:, None]).astype(float)
    starts = np.stack([starts_of(z[start:], log_y[start:], None) for start in first])
    same = np.broadcast_to(log_y, kept.shape)
    theta, _, _ = solve(z, same, kept, starts, bounds=bounds_of(1, None), delta=DELTA)
    squares = (kept * (log_y - np.log(predicted(theta, z))) ** 2).sum(1)
    holds = np.sqrt(squares / kept.sum(1)) <= LOOSER * max(noise, SMOOTH)
    return int(first[holds][0] if holds.any() else first[-1])
