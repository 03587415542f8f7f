"""What the runs say, with `equiv_probe.scaling`: laws of size and data, of compute, and which model makes more of what.

Sizes and data are compared at the lowest held-out loss on the way (early stopping); compute at the largest training
set, where every measurement on the way counts as a run of that length. Intervals of 95 %.
"""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

from equiv_probe import scaling
from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from equiv_probe.scaling import Table

LEARNED = 128
"""Laws of compute are fitted from this step on: before it a run is in its warm-up and the loss falls by no power."""
RUN = ("model", "width", "structures", "seed")
REFERENCE = "equivariant transformer"
"""With which losses are compared at equal data and steps."""


@dataclass(frozen=True)
class Findings:
    """By model or pair of models; what could not be fitted is not there, and said in `left`."""

    sizes: dict[str, scaling.Fit]
    lengths: dict[str, scaling.Fit]
    compute: dict[str, scaling.Fit]
    allocations: dict[str, scaling.Allocation]
    data: dict[tuple[str, str], scaling.DataEfficiency]
    gaps: dict[tuple[str, str, str], scaling.Gap]
    overtaking: dict[str, Overtaking]
    left: list[str]

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Go on without what cannot be fitted, and say so."""
        try:
            yield
        except EquivProbeError as error:
            self.left.append(f"{what}: {error}")


def stopped(runs: Table, steps: int) -> Table:
    """Of every run, the row with the lowest loss among its first `steps`; runs that are shorter are left out."""
    best = []
    place = np.arange(len(runs))
    numbered = scaling.Table({**runs.columns, "(row)": place.astype(float)})
    for rows in numbered.by(*RUN).values():
        if rows.numbers("step").max() >= steps:
            allowed = rows.where(step=lambda s: s <= steps)
            best.append(int(allowed["(row)"][int(allowed.numbers("L_total").argmin())]))
    return runs.take(np.array(sorted(best), dtype=int))


def frontier(runs: Table, x: str = "C") -> Table:
    """The rows that no other row of the same seed beats at less of x: the lower envelope of all sizes' curves."""
    kept = []
    place = np.arange(len(runs), dtype=float)
    for own in scaling.Table({**runs.columns, "(row)": place}).by("seed").values():
        order = np.lexsort((own.numbers("L_total"), own.numbers(x)))
        losses = own.numbers("L_total")[order]
        below = np.minimum.accumulate(np.concatenate([[np.inf], losses[:-1]]))
        kept += own["(row)"][order[losses < below]].astype(int).tolist()
    return runs.take(np.array(kept, dtype=int))


def averaged(runs: Table) -> Table:
    """One run of each width and step: the geometric mean of its seeds' losses."""
    cells = list(runs.by("width", "step").values())
    means = {"L_total": np.exp([np.log(own.numbers("L_total")).mean() for own in cells])}
    firsts = {name: np.array([own[name][0] for own in cells]) for name in ("width", "step", "C", "parameters")}
    return scaling.Table({**firsts, **means, "seed": np.zeros(len(cells))})


@dataclass(frozen=True)
class Overtaking:
    """Where, with more operations, the next larger size of a model becomes the better one.

    Attributes:
        sizes: geometric means of the parameters of neighbours, ``(k,)``.
        operations: at which the larger one overtakes, of every seed, ``(seeds, k)``; NaN where it does not in its runs.
        exponents: slopes of ``log N`` against ``log C`` along these, of every seed, ``(seeds,)``.
        exponent: their mean, with Student's interval.
    """

    sizes: np.ndarray
    operations: np.ndarray
    exponents: np.ndarray
    exponent: scaling.Estimate

    def __str__(self) -> str:
        lines = [
            f"N = {n:.0f}: C = " + ", ".join(f"{c:.2g}" for c in own)
            for n, own in zip(self.sizes, self.operations.T, strict=True)
        ]
        return "\n".join([*lines, f"N ∝ C^{self.exponent}"])


def overtaking(runs: Table) -> Overtaking:
    """Where larger sizes overtake; no law of the loss is assumed, only that curves are straight between measurements.

    Args:
        runs: rows of one model, of several widths, seeds and steps; of a seed that lacks a width nothing is made.
    """
    widths, operations = sorted(set(runs.numbers("width").tolist())), []
    parameters = np.array([runs.where(width=w).numbers("parameters")[0] for w in widths])
    for own in runs.by("seed").values():
        curves = [own.where(width=w) for w in widths]
        if all(map(len, curves)):
            operations.append([_overtaken(*pair) for pair in itertools.pairwise(curves)])
    sizes, found = np.sqrt(parameters[1:] * parameters[:-1]), np.array(operations).reshape(-1, len(widths) - 1)
    exponents = []
    for own in found:
        there = np.isfinite(own)
        slope = np.polyfit(np.log(own[there]), np.log(sizes[there]), 1)[0] if there.sum() > 1 else np.nan
        exponents.append(slope)
    return Overtaking(sizes, found, np.array(exponents), mean_of(np.array(exponents)))


def _overtaken(small: Table, large: Table) -> float:
    """Operations after which the larger one's loss stays the lower one; NaN if not within both runs."""
    ends = [np.log(one.numbers("C")) for one in (small, large)]
    grid = np.linspace(max(e.min() for e in ends), min(e.max() for e in ends), 400)
    low = [
        np.interp(grid, at, np.minimum.accumulate(np.log(one.numbers("L_total"))))
        for at, one in zip(ends, (small, large), strict=True)
    ]
    behind = np.flatnonzero(low[1] >= low[0])
    inside = len(behind) and behind[-1] + 1 < len(grid)
    return float(np.exp(grid[behind[-1] + 1])) if inside else float("nan")


def mean_of(values: np.ndarray) -> scaling.Estimate:
    """A mean over seeds with Student's interval; of one seed without."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return scaling.Estimate(float(values.mean()) if len(values) else float("nan"))
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return scaling.Estimate(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def epochs(runs: Table, batch: int, width: dict[str, float], steps: tuple[int, ...]) -> list[dict[str, Any]]:
    """Does a gap in data efficiency close with epochs? The lowest loss so far, by model, data and steps.

    `penalty` is how many times the loss with the most structures that is, after the same steps: one if more data would
    bring nothing. `over` is how many times the loss of the equivariant transformer on the same data after the same
    steps. Both with Student's intervals over seeds, of which each has its own weights.

    Args:
        runs: rows of every run and step.
        batch: structures in a step.
        width: of each model.
        steps: at which.
    """
    lowest: dict[tuple[str, float, int], dict[float, float]] = {}  # of every seed
    for (model, own_width, structures, seed), own in runs.by(*RUN).items():
        if own_width == width[model]:
            for step in (one for one in steps if one <= own.numbers("step").max()):
                before = own.where(step=lambda s, step=step: s <= step).numbers("L_total")
                lowest.setdefault((model, structures, step), {})[seed] = float(np.log(before.min()))
    most, rows = max(structures for _, structures, _ in lowest), []
    for (model, structures, step), losses in lowest.items():
        others = {"penalty": lowest.get((model, most, step), {}), "over": lowest.get((REFERENCE, structures, step), {})}
        logs = {"loss": [*losses.values()]}
        logs |= {name: [losses[s] - of[s] for s in losses if s in of] for name, of in others.items()}
        row = {"model": model, "structures": structures, "step": step, "epochs": step * batch / structures}
        for name, values in logs.items():
            mean = mean_of(np.array(values))
            row[name], row[f"{name}_low"], row[f"{name}_high"] = np.exp([mean.value, mean.low, mean.high]).tolist()
        rows.append(row)
    return rows


def findings_of(runs: Table, steps: int, width: dict[str, float], resamples: int = 1000) -> Findings:
    """Fit and compare all that the runs allow.

    Args:
        runs: rows of every run and step.
        steps: of the runs of the grid of sizes and data.
        width: that stands for a model where sizes are not varied.
        resamples: of every interval.
    """
    findings, drawn = Findings({}, {}, {}, {}, {}, {}, {}, []), {"resamples": resamples}
    most, best = runs.numbers("structures").max(), stopped(runs, steps)
    sized = [m for m in width if len(set(runs.where(model=m).numbers("width").tolist())) > 1]
    ends = [own.numbers("step").max() for (m, *_), own in runs.where(structures=most).by(*RUN).items() if m in sized]
    end = min((e for e in ends if e >= steps), default=steps)
    largest = runs.where(structures=most, step=lambda s: 0 < s <= end)
    for model in sized:
        late = largest.where(model=model, step=lambda s: s >= LEARNED)
        _laws(findings, model, best.where(model=model), late, resamples)
        findings.overtaking[model] = overtaking(runs.where(model=model, structures=most, step=lambda s: s > 0))
    middle = runs.take(np.array([width[m] == w for m, w in zip(runs["model"], runs["width"], strict=True)]))
    for a, b in itertools.combinations(width, 2):
        pair = stopped(middle.where(model=lambda m, pair=(a, b): m in pair), steps)
        with findings.attempt(f"Data efficiency of {a} and {b}"):
            findings.data[a, b] = scaling.data_efficiency(pair, a, b, **drawn)
        with findings.attempt(f"Gap of {a} and {b} against structures"):
            sides = [_complete(pair.where(model=m)) for m in (a, b)]
            findings.gaps[a, b, "structures"] = scaling.gap(*sides, "structures", names=(a, b), **drawn)
        for x in ("step", "seconds", "C"):
            sides = [_seeds(middle.where(model=m, structures=most), steps) for m in (a, b)]
            with findings.attempt(f"Gap of {a} and {b} against {x}"):
                findings.gaps[a, b, x] = scaling.gap(*sides, x, names=(a, b), **drawn)
            if x != "step" and {a, b} <= {*sized}:
                sides = [frontier(_sized(largest.where(model=m)), x) for m in (a, b)]
                with findings.attempt(f"Gap of {a} and {b} of any size against {x}"):
                    findings.gaps[a, b, f"{x}, any size"] = scaling.gap(*sides, x, names=(a, b), **drawn)
    return findings


def _laws(findings: Findings, model: str, best: Table, late: Table, resamples: int) -> None:
    """Of one model: its rows of lowest loss, and those of the largest training set after its warm-up."""
    with findings.attempt(f"L(N, D) of {model}"):
        findings.sizes[model] = scaling.fit(best, ("N", "D"), bootstrap="runs", resamples=resamples)
    with findings.attempt(f"L(C) of {model}"):
        findings.compute[model] = scaling.fit(frontier(averaged(late)), "C", resamples=resamples)
    with findings.attempt(f"L(N, steps) of {model}"):
        # Labels are exact, and there are too few runs to find that out: no floor.
        how = {"groups": ("width", "seed"), "floor": 0.0, "resamples": resamples}
        findings.lengths[model] = scaling.fit(late, ("N", "step"), **how)
        cost, spent = scaling.measured_cost(late, "C", ("N", "step")), late.numbers("C")
        budgets = np.geomspace(spent.min(), spent.max(), 4)[1:].tolist()
        findings.allocations[model] = scaling.allocate(findings.lengths[model], budgets, cost)


def _seeds(runs: Table, steps: int) -> Table:
    """Runs of the full length, to that length."""
    done = {key for key, rows in runs.by("seed").items() if rows.numbers("step").max() >= steps}
    return runs.where(seed=lambda s: (s,) in done, step=lambda s: 0 < s <= steps)


def _sized(runs: Table) -> Table:
    """Seeds of every width."""
    widths = len(set(runs.numbers("width").tolist()))
    whole = {key for key, rows in runs.by("seed").items() if len(set(rows.numbers("width").tolist())) == widths}
    return runs.where(seed=lambda s: (s,) in whole)


def _complete(best: Table) -> Table:
    """Seeds that ran on every training set."""
    counts = len(set(best.numbers("structures").tolist()))
    whole = {key for key, rows in best.by("seed").items() if len(rows) == counts}
    return best.where(seed=lambda s: (s,) in whole)
