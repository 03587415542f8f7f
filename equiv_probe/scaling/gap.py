"""The efficiency gap: which of two models has the lower loss after the same time or steps, and where that changes.

>>> steps = [10, 30, 100, 300, 1000]
>>> seeds = [0] * 5 + [1] * 5
>>> slow, fast = [t**-0.5 for t in steps], [3 * t**-0.8 for t in steps]
>>> a = {"step": steps * 2, "seed": seeds, "L_total": slow + [1.02 * y for y in slow]}
>>> b = {"step": steps * 2, "seed": seeds, "L_total": fast + [1.01 * y for y in fast]}
>>> found = gap(a, b, x="step", names=("plain", "equivariant"))
>>> f"{found.crossings[0].x.value:.1f}", found.crossings[0].after
('38.3', 'equivariant')
>>> print(gap(a, a, x="step", names=("plain", "again")).verdict)
plain and again do not differ measurably anywhere between 10.0 and 1000 step
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling.crossings import crossings_of, known_signs
from equiv_probe.scaling.curves import Curve, common_grid, curves_of, drawn, on_grid
from equiv_probe.scaling.estimates import estimates_of, interval_of, shown
from equiv_probe.scaling.fit_checks import FEWEST
from equiv_probe.scaling.gap_result import Gap, reached
from equiv_probe.scaling.table import table_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe.scaling.curves import Smooth
    from equiv_probe.scaling.estimates import Estimate
    from equiv_probe.scaling.solver import Array
    from equiv_probe.scaling.table import Table

LONGER = 1.5
"""Runs that go on for so many times the shortest one's length are said not to be compared to their ends."""


def gap(
    a: Table | Mapping[str, Any],
    b: Table | Mapping[str, Any],
    x: str = "seconds",
    loss: str = "L_total",
    *,
    names: tuple[str, str] = ("A", "B"),
    seeds: str = "seed",
    structure: str = "structure",
    smooth: Smooth = "minimum",
    losses: Sequence[float] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    unit: str = "",
) -> Gap:
    """Compare two models' loss against time or steps.

    Curves are smoothed, interpolated in the logarithms of both axes, and averaged (geometrically) over seeds, over the
    range that all runs have. The interval of a crossing is made of all places at which no difference of the
    two models is known: it holds the true crossing as often as the intervals at single places hold the true difference.

    The seeds of the two models are taken as independent of each other; where they share data or order, intervals are
    longer than they need be.

    Args:
        a: rows of one model: one per run and step.
        b: rows of the other.
        x: column of what is spent: ``"seconds"``, ``"step"``, ``"C"``; or ``"D"``, over runs of several sizes.
        loss: column of the loss, in one unit in both.
        names: of the models.
        seeds: column that distinguishes the runs of a model (else ``"run"``); without it each table is one run.
        structure: column that names held-out structures; then structures are drawn anew too, the same ones for both
            models where they are the same. Without it and with a single run, ``{loss}_stderr`` is taken for the
            intervals, if it is there.
        smooth: ``"minimum"`` so far, ``"median"`` of five points, or ``"none"``.
        losses: at which times are compared; None takes nine that both models reach.
        resamples: how many draws.
        level: of the intervals, at each place.
        seed: of the draws.
        unit: of the loss, for axes and tables.

    Returns:
        The curves' ratio, the crossings and the ratio of times, with intervals; these are NaN with one run each.
    """
    if resamples < FEWEST or not 0 < level < 1 or names[0] == names[1]:
        given = f"resamples={resamples}, level={level:g}, names={names}"
        raise EquivProbeError(given, f"{FEWEST} resamples or more, a level in (0, 1), two names")
    if losses is not None and not all(one > 0 for one in losses):
        raise EquivProbeError(f"losses={list(losses)}", "positive numbers, which have logarithms")
    sides = [curves_of(table_of(t), x, loss, seeds, structure) for t in (a, b)]
    if any(len({curve.structures for curve in side}) > 1 for side in sides):
        raise EquivProbeError("runs of one model on different structures", "the same held-out structures")
    grid = common_grid(sides)
    best = [np.stack([on_grid(c, grid, smooth) for c in side]).mean(0) for side in sides]
    draws = _draws(sides, grid, smooth, resamples, np.random.default_rng(seed))
    known, difference = all(map(_has_interval, sides)), best[1] - best[0]
    low = high = np.full(len(grid), np.nan)
    lower, bands = np.sign(difference).astype(np.int8), np.full((2, 2, len(grid)), np.nan)
    if known:
        low, high = np.array([interval_of(one, level, -np.inf) for one in (draws[1] - draws[0]).T]).T
        lower = known_signs(difference, draws[1] - draws[0], low, high, level)
        bands = np.exp(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=1)).swapaxes(0, 1)
    at, factor = _times(grid, best, draws if known else None, losses, level)
    return Gap(
        names=names,
        x=x,
        loss=loss,
        at=np.exp(grid),
        curves=np.exp(best),
        bands=bands,
        ratio=np.exp(difference),
        ratio_low=np.exp(low),
        ratio_high=np.exp(high),
        lower=lower.astype(float),
        crossings=crossings_of(grid, difference, lower, curve=best[0], names=names, known=known),
        losses=at,
        factor=factor,
        runs=(len(sides[0]), len(sides[1])),
        notes=[*_notes(sides, names), *_left_out(sides, names, x)],
        level=level,
        protocol={"smoothing": smooth, "resamples": resamples, "seed": seed, "level": f"{100 * level:g} %"},
        unit=unit,
    )


def _has_interval(side: list[Curve]) -> bool:
    return len(side) > 1 or len(side[0].structures) > 1 or bool(np.isfinite(side[0].stderr).all())


def _draws(
    sides: list[list[Curve]], grid: Array, smooth: Smooth, resamples: int, generator: np.random.Generator
) -> list[Array]:
    """Curves of both models, ``(B, G)`` each; structures that both were measured on are drawn for both at once."""
    times: list[Array | None] = []
    for side in sides:
        held_out = side[0].structures
        if times and held_out and held_out == sides[0][0].structures:
            times.append(times[0])
        elif (count := len(held_out)) > 1:
            times.append(generator.multinomial(count, np.full(count, 1 / count), resamples).astype(float))
        else:
            times.append(None)
    return [drawn(side, grid, smooth, resamples, generator, times=t) for side, t in zip(sides, times, strict=True)]


def _times(
    grid: Array, best: list[Array], draws: list[Array] | None, losses: Sequence[float] | None, level: float
) -> tuple[list[float], list[Estimate]]:
    """Losses, and the ratio of when the second model comes to them and when the first does."""
    if losses is None:
        falling = np.minimum.accumulate(best, 1)
        low, high = falling[:, -1].max(), falling[:, 0].min()
        wanted = np.linspace(high, low, 9) if low < high else np.empty(0)
    else:
        wanted = np.log(np.asarray(losses, dtype=float))
    ratios = []
    for curves in [np.array(best)[:, None], *([] if draws is None else [np.array(draws)])]:
        first, second = (reached(grid, np.minimum.accumulate(one, 1), wanted) for one in curves)
        with np.errstate(invalid="ignore"):  # what neither comes to has no ratio
            ratios.append(np.exp(second - first))
    return np.exp(wanted).tolist(), estimates_of(np.vstack(ratios), level)


def _left_out(sides: list[list[Curve]], names: tuple[str, str], x: str) -> list[str]:
    """A note where a run ends long before others of it or of the other model do: it was shorter, or lost its loss."""
    ends = [[curve.x[-1] for curve in side] for side in sides]
    first, last = min(map(min, ends)), max(map(max, ends))
    if last < LONGER * first:
        return []
    place = int(np.argmin([min(one) for one in ends]))
    short = sum(end < last / LONGER for end in ends[place])
    return [
        f"Compared up to {shown(first)} {x}, where {short} of {len(ends[place])} runs of {names[place]} end or have no "
        f"finite loss from there on; others go on to {shown(last)}."
    ]


def _notes(sides: list[list[Curve]], names: tuple[str, str]) -> list[str]:
    notes = []
    for (first, *others), name in zip(sides, names, strict=True):
        if others:
            continue
        ends = "and says nothing of other seeds."
        if len(first.structures) > 1:
            notes.append(f"{name} is one run: its interval is over held-out structures, {ends}")
        elif np.isfinite(first.stderr).all():
            notes.append(f"{name} is one run: its interval is the held-out loss's own error, {ends}")
        else:
            notes.append(f"{name} is one run without an error bar: there are no intervals. A second seed gives some.")
    if any(len(side) == 2 for side in sides):
        notes.append(
            "Two runs of a model leave one degree of freedom: intervals are long; a third run shortens them most."
        )
    return notes
