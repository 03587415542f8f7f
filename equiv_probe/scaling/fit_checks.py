"""What runs must be for a law to be fitted to them, and what a reader of the fit must know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import pearsonr, spearmanr

from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling.law import names_of
from equiv_probe.scaling.power_law import LARGEST, SMALLEST, Optimum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equiv_probe.scaling.estimates import Estimate
    from equiv_probe.scaling.solver import Array

FEWEST = 20
"""Resamples below which a percentile is nothing."""
CORRELATED = 0.95
"""Correlation of sizes above which a note says so."""


def require_options(
    names: tuple[str, ...], *, bootstrap: str, interval: str, resamples: int, level: float, delta: float | None
) -> None:
    """See that options are what they can be, and that there are one or two variables.

    Raises:
        EquivProbeError: they are not.
    """
    if bootstrap not in {"residuals", "wild", "runs"} or interval not in {"percentile", "bca"}:
        given = f"bootstrap={bootstrap!r}, interval={interval!r}"
        raise EquivProbeError(given, '"residuals", "wild" or "runs"; "percentile" or "bca"')
    if not (resamples == 0 or resamples >= FEWEST) or not 0 < level < 1 or not (delta is None or delta > 0):
        given = f"resamples={resamples}, level={level:g}, delta={delta}"
        raise EquivProbeError(given, f"0 resamples or {FEWEST} and more, a level in (0, 1), a delta above 0 or None")
    if not 1 <= len(names) <= 2 or len(set(names)) != len(names):
        raise EquivProbeError(f"x={names}", "one or two columns", 'x=("N", "D")')


def require_positive(name: str, column: Array) -> None:
    """See that a column has a logarithm.

    Raises:
        EquivProbeError: a number in it is missing, or not above zero.
    """
    wrong = column[~(np.isfinite(column) & (column > 0))]
    if len(wrong):
        raise EquivProbeError(
            f"{name} = {wrong[0]:g} in {len(wrong)} of {len(column)} runs",
            "positive numbers, which have logarithms",
            f"table.where({name}=lambda value: value > 0)",
        )


def require(values: Array, y: Array, names: tuple[str, ...], loss: str, floor: float | None) -> None:
    """See that runs determine the parameters of a law.

    Raises:
        EquivProbeError: they cannot.
    """
    for name, column in zip((*names, loss), (*values.T, y), strict=True):
        require_positive(name, column)
    needed = 3 if floor is None else 2
    for name, column in zip(names, values.T, strict=True):
        sizes = len(np.unique(column))
        if sizes < needed:
            unknown = f"E, a coefficient and an exponent of {name}" if floor is None else f"an exponent of {name}"
            raise EquivProbeError(
                f"{sizes} size{'s' * (sizes != 1)} of {name}",
                f"{needed} or more, to determine {unknown}",
                "run more sizes" + (", or give the floor if it is known: floor=0.0" if floor is None else ""),
            )
    if len(names) == 2 and correlation(np.log(values)) > 1 - 1e-9:
        raise EquivProbeError(
            f"sizes of {names[0]} and {names[1]} that always go together",
            "runs that distinguish the two: several of one at the same size of the other",
            f'run more, or fit one of them: x="{names[0]}"',
        )
    parameters = 1 + 2 * len(names) - (floor is not None)
    if len(y) < parameters:
        raise EquivProbeError(f"{len(y)} runs", f"at least as many as the {parameters} parameters", "run more sizes")
    if floor is not None and not 0 <= floor < y.min():
        raise EquivProbeError(
            f"a floor of {floor:g}", f"0 or more, and below the lowest loss, {y.min():g}", "floor=0.0"
        )


def correlation(z: Array) -> float:
    """The size of the correlation of two variables' logarithms."""
    return float(abs(pearsonr(*z.T).statistic))


def correlated(z: Array, names: Sequence[str]) -> list[str]:
    """A note where two sizes nearly go together."""
    if len(names) < 2 or correlation(z) <= CORRELATED:
        return []
    return [f"{names[0]} and {names[1]} go together in these runs: what is due to which is hardly known."]


def notes_of(found: Optimum, units: int, parameters: int) -> list[str]:
    """Notes on few runs, and on a fit that only one start found."""
    notes = []
    if units <= parameters:
        notes.append(f"{units} independent runs for {parameters} parameters: there is no interval; run more sizes.")
    if found.agreeing < 2:
        notes.append(f"Only one of {found.starts} starts found the best fit: look at it before you use it.")
    return notes


def uneven(z: Array, found: Optimum, names: tuple[str, ...]) -> list[str]:
    """A note where runs of some sizes scatter more than others, by rank correlation."""
    if len(z) < 8 or np.ptp(found.residuals) < 1e-9:
        return []
    return [
        f'The scatter depends on {name}, so that the intervals are too short or too long; bootstrap="wild", or from '
        'some twenty runs on "runs", takes that into account.'
        for name, column in zip(names, z.T, strict=True)
        if spearmanr(column, np.abs(found.residuals)).pvalue < 0.01 / len(names)
    ]


def unbounded(estimates: Sequence[Estimate], best: Array, level: float, x: Sequence[str]) -> list[str]:
    """Notes on parameters that the runs do not bound."""
    notes = []
    names = names_of((len(estimates) - 1) // 2)
    if estimates[0].low == 0 and estimates[0].high > 0:
        notes.append(
            f"E is not distinguished from zero at {100 * level:g} %; floor=0.0 fixes it where labels are exact."
        )
    for place in range(2, len(estimates), 2):
        value, name = best[place], names[place]
        if np.isnan(value):
            notes.append(
                f"The loss does not fall with {x[place // 2 - 1]}: {names[place - 1]} is 0, and {name} means nothing."
            )
        elif value >= LARGEST * 0.999 or value <= SMALLEST * 1.01:
            notes.append(f"{name} is at the end of what is searched, [{SMALLEST}, {LARGEST:g}]: it is not identified.")
        elif estimates[place].low == 0 or estimates[place].high == np.inf:
            notes.append(f"The runs do not bound {name} on both sides: more sizes, or a wider range of them, would.")
    return notes
