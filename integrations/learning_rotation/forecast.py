"""Does the simple law of the dip predict? Fit it to the first part of every run, and look at the end.

    python integrations/learning_rotation/forecast.py [FILE.csv ...]

The law: share = `L_equiv / (L_mean + L_equiv)`, each loss `E + A step^-alpha`. Of every run in the committed tables of
the studies the first tenth, third and half of the steps are given to `equiv_probe.scaling.forecast`, and what its laws
say of the end is compared with the share found there: the mean over the last fifth of the steps. Two rivals: the share
stays where it is, with the interval that shares of real runs kept to (`Forecast.share`); and a straight line through
its log odds over the last ten-fold of steps. Prints the tables of `forecast.md`, of the studies by whose runs those
intervals were set and of those that were held out, and writes `results/forecast.csv`.

Of FILEs with the columns `step`, `L_mean` and `L_equiv`, and any that distinguish runs, the same is printed, and
nothing is written.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table as Printed
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student

from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling import Forecast, Table, fit, forecast, read_table
from equiv_probe.scaling.dip import shares
from equiv_probe.scaling.forecast_result import FALLING
from equiv_probe.scaling.learning_curves import learning_curves

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Row = dict[str, Any]

HERE = Path(__file__).parent
STUDIES = {
    "flow": ("flow/results/*_steps.csv", "flow/results/dependence.csv"),
    "voxel": ("voxel/results/denoise-*.csv", "voxel/results/dependence.csv", "voxel/results/pockets-*.csv"),
    "scaling": ("scaling/results/*_runs.csv",),
    "forces": ("force_field_training/results/*_steps.csv",),
}
"""Tables of runs, by which the intervals of `Forecast.share` were set."""
HELD_OUT = {"escaip": ("escaip/results/steps.csv",)}
"""Those of runs that were not looked at before."""
SETTINGS = {"weights", "width", "structures", "lr", "batch", "decay", "seed", "t"}
"""Columns of numbers that distinguish runs, as all columns of text do."""
SEEN = (0.1, 1 / 3, 0.5)
"""Parts of a run that forecasts are given."""
EQUIVARIANT = 1e-5
"""A share that stays below this is one of an equivariant model: rounding."""
METHODS = {"law": "the laws", "today": "today's share", "line": "a line"}
ENDS = (0.5, 0.1, 0.9, 0.025, 0.975)
"""Of a forecast: the middle, and the ends of 80 % and of 95 %."""
TWICE = 2.0
"""How much deeper than before and after it a dip must be to be one."""


@dataclass(frozen=True)
class Run:
    """One run: its study, its name, and rows of step, `L_mean` and `L_equiv`, `(n, 3)`, without step 0."""

    study: str
    name: str
    rows: Array

    def part(self, seen: float = 1.0) -> dict[str, Array]:
        """The first part of it as a history."""
        own = self.rows[self.rows[:, 0] <= seen * self.rows[-1, 0] * 1.001]
        return dict(zip(("step", "L_mean", "L_equiv"), own.T, strict=True))

    @property
    def end(self) -> tuple[float, float]:
        """Step and log odds of the share at the end: means over the last fifth of the steps."""
        late = self.rows[self.rows[:, 0] >= 0.8 * self.rows[-1, 0]]
        return float(np.exp(np.log(late[:, 0]).mean())), float(np.log(late[:, 2].mean() / late[:, 1].mean()))


def runs_of(study: str, path: Path) -> Iterator[Run]:
    """The runs of a table whose models are not equivariant, on held-out structures."""
    table = read_table(path)
    table = Table({name.removeprefix("held/"): column for name, column in table.columns.items()}, table.source)
    for name, wanted in {"part": "held", "loss": "mse"}.items():
        if name in table.columns and wanted in table[name]:
            table = table.where(**{name: wanted})
    if "step" not in table or "L_equiv" not in table:
        return
    kinds = [name for name, column in table.columns.items() if column.dtype.kind == "O" or name in SETTINGS]
    for key, own in table.by(*kinds).items():
        mean = own.numbers("L_mean") if "L_mean" in own else own.numbers("L_total") - own.numbers("L_equiv")
        rows = np.column_stack([own.numbers("step"), mean, own.numbers("L_equiv")])
        rows = rows[np.isfinite(rows).all(1) & (rows[:, 0] > 0)]
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        named = "/".join([path.stem, *(f"{part:g}" if isinstance(part, float) else str(part) for part in key)])
        if len(rows) > 3 and rows[-1, 2] > 0 and (rows[:, 2] / rows[:, 1:].sum(1)).max() > EQUIVARIANT:
            yield Run(study, named, rows)


def committed(studies: Mapping[str, tuple[str, ...]]) -> list[Run]:
    """The runs of some studies' tables."""
    places = [(study, path) for study, globs in studies.items() for glob in globs for path in HERE.parent.glob(glob)]
    return [run for study, path in sorted(places) for run in runs_of(study, path)]


def tested(run: Run, seen: float) -> Row | None:
    """What was found at the end and what each method said of it, as log odds at `ENDS`; None of too short a history."""
    to, found = run.end
    try:
        told = forecast(run.part(seen), to, resamples=200)
    except EquivProbeError:
        return None
    now = logit(told.today.value)
    reach = np.hypot(told.odds_stderr, told.wander * np.log(to / told.step))
    said = {"law": _law(told), "today": now + reach * norm.ppf(ENDS), "line": _line(told)}
    known = {"study": run.study, "run": run.name, "seen": seen, "step": told.step, "to": to, "now": now, "found": found}
    known |= {"places": len(told.history), "falling": told.falling, "stderr": told.odds_stderr}
    return {**known, **said}


def _law(told: Forecast) -> Array:
    mean, equiv = (law.draws for law in told.laws.values())
    if not len(mean):  # as many places as parameters: no interval
        return np.array([logit(told.law_share.value), -np.inf, np.inf, -np.inf, np.inf])
    drawn = logit(np.clip(shares(mean, equiv, np.array([told.to]))[:, 0], 1e-12, 1 - 1e-12))
    return np.array([logit(told.law_share.value), *np.quantile(drawn, ENDS[1:])])


def _line(told: Forecast) -> Array:
    """A straight line in the last ten-fold of steps, three places at least, with Student's intervals."""
    u = np.log(told.history[:, 0] / told.step)
    own = u >= min(-np.log(10), u[-3])
    x, y = np.column_stack([np.ones(own.sum()), u[own]]), np.log(told.history[own, 2] / told.history[own, 1])
    solved = np.linalg.lstsq(x, y, rcond=None)[0]
    free, at = len(y) - 2, np.array([1, np.log(told.to / told.step)])
    error = np.sqrt(((y - x @ solved) ** 2).sum() / free * (1 + at @ np.linalg.inv(x.T @ x) @ at))
    return np.asarray(at @ solved + error * student.ppf(ENDS, free))


def forecasts(rows: list[Row]) -> Printed:
    """Of each method the median factor by which the odds were missed, and how often its intervals held what was found.

    Groups: by study; by whether `L_mean` falls fast at the end of what was seen; runs with a constant learning rate.
    """
    heads = [f"{text}: off by, ×/÷ · 80, 95 % hold" for text in METHODS.values()]
    table = Printed("part seen", "runs", *heads, "laws closer than today's", box=None, title="The share at the end")
    for seen in SEEN:
        own = [row for row in rows if row["seen"] == seen]
        groups = {f"{seen:.2f}": own}
        groups |= {f"  {study}": [row for row in own if row["study"] == study] for study in _studies(own)}
        groups["  L_mean falls fast"] = [row for row in own if row["falling"] < FALLING]
        groups["  it does not"] = [row for row in own if row["falling"] >= FALLING]
        groups["  constant rate"] = [row for row in own if row["study"] == "scaling" or "constant" in row["run"]]
        for label, group in groups.items():
            if group:
                closer = [abs(row["law"][0] - row["found"]) < abs(row["now"] - row["found"]) for row in group]
                cells = [_said(group, method) for method in METHODS]
                table.add_row(label, str(len(group)), *cells, f"{100 * np.mean(closer):.0f} %")
    return table


def _said(rows: list[Row], method: str) -> str:
    found = np.array([row["found"] for row in rows])
    middle, low, high, lowest, highest = np.array([row[method] for row in rows]).T
    off = np.exp(np.median(np.abs(middle - found)))
    held = [100 * np.mean((a <= found) & (found <= b)) for a, b in ((low, high), (lowest, highest))]
    return f"{off:.2g} · {held[0]:.0f}, {held[1]:.0f}"


def wandering(rows: list[Row]) -> Printed:
    """How far the log odds of the share went per factor of e in steps: root mean squares, which `WANDER` rounds.

    And how often the intervals of today's share hold in a study if they are set by the other studies alone.
    """
    title = "Change of the share's log odds per factor of e in steps, rms"
    held = "set by the others, 80, 95 % hold"
    table = Printed("", "L_mean falls fast", "it does not", held, box=None, title=title)
    for study in (*_studies(rows), "all"):
        own = [row for row in rows if study in ("all", row["study"])]
        others = [row for row in rows if row["study"] != study]
        counts = [sum((row["falling"] < FALLING) == fast for row in own) for fast in (True, False)]
        cells = [
            f"{wander:.2f} of {count}" if count else "–" for wander, count in zip(_wander(own), counts, strict=True)
        ]
        table.add_row(study, *cells, _held(own, _wander(others)) if study != "all" and others else "")
    return table


def _wander(rows: list[Row]) -> Array:
    """Of runs whose `L_mean` falls fast, and of others."""
    went: tuple[list[float], list[float]] = ([], [])
    for row in rows:
        went[row["falling"] >= FALLING].append((row["found"] - row["now"]) / np.log(row["to"] / row["step"]))
    return np.array([np.sqrt(np.mean(np.square(one))) if one else np.nan for one in went])


def _held(rows: list[Row], wander: Array) -> str:
    sizes = [
        abs(row["found"] - row["now"])
        / np.hypot(row["stderr"], wander[int(row["falling"] >= FALLING)] * np.log(row["to"] / row["step"]))
        for row in rows
    ]
    return ", ".join(f"{100 * np.mean(np.array(sizes) <= norm.ppf((1 + level) / 2)):.0f}" for level in (0.8, 0.95))


def dips(runs: Iterable[Run]) -> Printed:
    """Whether one law describes a whole run, and what happens to both losses after the share was lowest.

    A law can dip only because `L_mean` falls faster than `L_equiv`, which it holds to fall, too.
    """
    table = Printed("", "runs", "law misses L_mean by", "L_equiv by", "have a dip", "L_equiv rises after it", box=None)
    table.title = "Whole runs: median scatter about one law, and the dips"
    found: dict[str, list[tuple[float, float, float]]] = {}
    for run in runs:
        rows = learning_curves(run.part())[0]
        columns = dict(zip(("step", "L_mean", "L_equiv"), rows.T, strict=True))
        scatter = [fit(columns, "step", loss, resamples=0).scatter for loss in ("L_mean", "L_equiv")]
        share = rows[:, 2] / rows[:, 1:].sum(1)
        low = int(share.argmin())
        is_dip = 0 < low < len(share) - 1 and min(share[:low].max(), share[low:].max()) > TWICE * share[low]
        rise = rows[low:, 2].max() / rows[low, 2] if is_dip else np.nan
        found.setdefault(run.study, []).append((*scatter, rise))
    for study, values in found.items():
        mean, equiv, rises = np.array(values).T
        own = rises[np.isfinite(rises)]
        cells = [f"{100 * np.median(one):.0f} %" for one in (mean, equiv)]
        after = f"{(own > TWICE).sum()} (median ×{np.median(own):.2g})" if len(own) else "–"
        table.add_row(study, str(len(values)), *cells, str(len(own)), after)
    return table


def _studies(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["study"] for row in rows))


def write(rows: list[Row], path: Path) -> None:
    """A row for each run and part of it; shares as parts of one."""
    known = ("seen", "step", "to", "places", "falling")
    ends = ("", "_80_low", "_80_high", "_95_low", "_95_high")
    said = [method + end for method in METHODS for end in ends]
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["study", "run", *known, "share_now", "share_found", *said])
        for row in rows:
            odds = [row["now"], row["found"], *(one for method in METHODS for one in row[method])]
            numbers = [*(row[name] for name in known), *expit(odds)]
            out.writerow([row["study"], row["run"], *(f"{one:.4g}" for one in numbers)])


def report(runs: list[Run]) -> list[Row]:
    """Forecast from all parts of all runs, and print what came out."""
    rows = [row for run in runs for seen in SEEN if (row := tested(run, seen))]
    for table in (forecasts(rows), wandering(rows), dips(runs)):
        Console(width=140).print(table, "")
    return rows


def main() -> None:
    """Read, forecast, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="tables of other runs: printed, not written")
    files: list[Path] = parser.parse_args().files
    if files:
        report([run for path in files for run in runs_of(path.stem, path)])
        return
    write([*report(committed(STUDIES)), *report(committed(HELD_OUT))], HERE / "results" / "forecast.csv")


if __name__ == "__main__":
    main()
