"""What the runs say, with `equiv_probe.scaling`: laws of size and data, of compute, and which model makes more of what.

Sizes and data are compared at the lowest held-out loss on the way (early stopping); compute at the largest training
set, where every measurement on the way counts as a run of that length.
"""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from equiv_probe import scaling
from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from equiv_probe.scaling import Table

LEARNED = 128
"""Laws of compute are fitted from this step on: before it a run is in its warm-up and the loss falls by no power."""
RUN = ("model", "width", "structures", "seed")


@dataclass(frozen=True)
class Findings:
    """By model or pair of models; what could not be fitted is not there, and said in `left`."""

    sizes: dict[str, scaling.Fit]
    lengths: dict[str, scaling.Fit]
    compute: dict[str, scaling.Fit]
    allocations: dict[str, scaling.Allocation]
    data: dict[tuple[str, str], scaling.DataEfficiency]
    gaps: dict[tuple[str, str, str], scaling.Gap]
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
    """The rows that no other row beats at less of x: the lower envelope of the learning curves of all sizes."""
    order = np.lexsort((runs.numbers("L_total"), runs.numbers(x)))
    losses = runs.numbers("L_total")[order]
    below = np.minimum.accumulate(np.concatenate([[np.inf], losses[:-1]]))
    return runs.take(order[losses < below])


def findings_of(runs: Table, steps: int, width: int, resamples: int = 1000) -> Findings:
    """Fit and compare all that the runs allow.

    Args:
        runs: rows of every run and step.
        steps: of the runs of the grid of sizes and data.
        width: which of the widths of a model, in rising order, stands for it where sizes are not varied.
        resamples: of every interval.
    """
    findings, drawn = Findings({}, {}, {}, {}, {}, {}, []), {"resamples": resamples}
    models = list(dict.fromkeys(runs["model"].tolist()))
    one = {model: sorted(set(runs.where(model=model).numbers("width").tolist()))[width] for model in models}
    most, best = runs.numbers("structures").max(), stopped(runs, steps)
    early = runs.where(seed=0, structures=most, step=lambda s: 0 < s <= steps)
    for model in models:
        late = runs.where(model=model, structures=most, step=lambda s: LEARNED <= s <= steps)
        _laws(findings, model, best.where(model=model), late, resamples)
    for a, b in itertools.combinations(models, 2):
        pair = best.where(model=lambda m, pair=(a, b): m in pair, width=lambda w, pair=(a, b): w in map(one.get, pair))
        with findings.attempt(f"Data efficiency of {a} and {b}"):
            findings.data[a, b] = scaling.data_efficiency(pair, a, b, **drawn)
        with findings.attempt(f"Gap of {a} and {b} against structures"):
            sides = [_complete(pair.where(model=m)) for m in (a, b)]
            findings.gaps[a, b, "structures"] = scaling.gap(*sides, "structures", names=(a, b), **drawn)
        for x in ("step", "seconds", "C"):
            sides = [_seeds(runs.where(model=m, width=one[m], structures=most), steps) for m in (a, b)]
            with findings.attempt(f"Gap of {a} and {b} against {x}"):
                findings.gaps[a, b, x] = scaling.gap(*sides, x, names=(a, b), **drawn)
            sides = [frontier(early.where(model=m), x) for m in (a, b)]
            if x != "step":
                with findings.attempt(f"Gap of {a} and {b} of any size against {x}"):
                    findings.gaps[a, b, f"{x}, any size"] = scaling.gap(*sides, x, names=(a, b), **drawn)
    return findings


def _laws(findings: Findings, model: str, best: Table, late: Table, resamples: int) -> None:
    """Of one model: its rows of lowest loss, and those of the largest training set after its warm-up."""
    with findings.attempt(f"L(N, D) of {model}"):
        findings.sizes[model] = scaling.fit(best, ("N", "D"), bootstrap="runs", resamples=resamples)
    with findings.attempt(f"L(C) of {model}"):
        findings.compute[model] = scaling.fit(frontier(late.where(seed=0)), "C", resamples=resamples)
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


def _complete(best: Table) -> Table:
    """Seeds that ran on every training set."""
    counts = len(set(best.numbers("structures").tolist()))
    whole = {key for key, rows in best.by("seed").items() if len(rows) == counts}
    return best.where(seed=lambda s: (s,) in whole)
