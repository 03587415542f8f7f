"""Tables from what training runs leave behind: the callback's report and CSV log, TensorBoard's event files, plain CSV.

The callback's columns ``equiv/<stage>/<output>/L_total`` become rows with the columns stage, output, step, ``L_total``
and so on, so that all sources look alike. Seconds are those of training since the start, as the callback logs them
(``equiv/seconds``). In logs without, TensorBoard has the time of each entry, and a CSV log a column of that name if the
run logged one. Of a run that was stopped and begun again, what it did twice is read once.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError, missing_file
from equiv_probe.scaling.table import Table, read_csv, table_of

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "equiv/"
EVENTS = "events.out.tfevents.*"
CLOCK = "equiv/seconds"
CLOCKS = ("seconds", "time", "wall_time", "elapsed")
LOSSES = ("L_total", "L_mean", "L_equiv", "share")
RUN = ("run", "stage", "output")
PLACE = (*RUN, "step", "epoch", "seconds", "time", "wall_time", "elapsed")


def read_table(path: str | Path) -> Table:
    """Read a table of runs.

    Args:
        path: a CSV file with a row per run or step; Lightning's ``metrics.csv`` with the callback's columns; a report
            of a run, as JSON; an event file of TensorBoard, or a folder with some.

    Returns:
        The table. Columns that the fits look for are ``N`` (or ``parameters``), ``D`` (or ``structures``), ``C`` (or
        ``flops``), ``step``, ``seconds``, ``seed``, ``model`` and the losses; others are kept.

    Raises:
        EquivProbeError: no such file, a file of another kind, or nothing in it.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.rglob(EVENTS))
        if files:
            return _of_events(files)
        found = sorted(path.rglob("metrics.csv"))
        if len(found) == 1:
            return read_table(found[0])
        raise EquivProbeError(f"the folder {path} with {len(found)} metrics.csv", "event files, or one metrics.csv")
    if not path.is_file():
        raise missing_file(path, "a table of runs, a log or a report")
    if "tfevents" in path.name:
        return _of_events([path])
    if path.suffix == ".json":
        return _of_report(path)
    table = read_csv(path)
    return _long(table, path) if any(name.startswith(PREFIX) for name in table.columns) else table


def joined(tables: Iterable[Table], **columns: Iterable[Any]) -> Table:
    """Tables below each other.

    Args:
        tables: with columns of the same kind; what one lacks is missing there.
        columns: more columns: one value for each table.

    >>> first, second = table_of({"step": [1, 2]}), table_of({"step": [1]})
    >>> joined([first, second], seed=[0, 1])["seed"].tolist()
    [0.0, 0.0, 1.0]
    """
    parts = list(tables)
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    whole: dict[str, list[Any]] = {
        name: [v for part in parts for v in (part.columns[name] if name in part.columns else [None] * len(part))]
        for name in names
    }
    for name, values in columns.items():
        whole[name] = [value for value, part in zip(values, parts, strict=True) for _ in range(len(part))]
    return table_of(whole, ", ".join(dict.fromkeys(part.source for part in parts if part.source)))


def _long(table: Table, path: Path) -> Table:
    """One row per step, stage and output of a log in which these are in the columns' names."""
    if CLOCK in table:
        others = {name: column for name, column in table.columns.items() if name not in {"seconds", CLOCK}}
        table = Table({**others, "seconds": table.columns[CLOCK]}, table.source)
    if "step" not in table:
        raise EquivProbeError(f"{path.name} without steps", "the column step, which Lightning's CSVLogger writes")
    shared: list[str] = [name for name in ("step", "epoch", *CLOCKS) if name in table.columns]
    kinds: dict[tuple[str, str], dict[str, str]] = {}
    for name in table.columns:
        for stage, output, key in _places(name):
            kinds.setdefault((stage, output), {})[key] = name
    clock = next((name for name in CLOCKS if name in shared), None)
    rows: list[dict[str, Any]] = []
    for (stage, output), columns in kinds.items():
        values = {key: table.numbers(name) for key, name in columns.items()}
        if not any(key in LOSSES for key in values):  # gradients of one group
            continue
        filled = np.any([np.isfinite(one) for one in values.values()], axis=0)
        for row in np.flatnonzero(filled):
            place: dict[str, Any] = {name: table.columns[name][row] for name in shared}
            if clock is not None and np.isnan(place[clock]):
                place[clock] = _nearby(table, clock, int(row))
            rows.append({**place, "stage": stage, "output": output, **{key: one[row] for key, one in values.items()}})
    return _rows(_with_losses(without_repeats(rows)), path.name)


def _places(name: str) -> list[tuple[str, str, str]]:
    """Stage, output and quantity of a column ``equiv/<stage>/<output>/<quantity>``; of others nothing."""
    _, stage, *output, key = parts if len(parts := name.split("/")) >= 4 else ("", "", "")
    return [(stage, "/".join(output), key)] if output and name.startswith(PREFIX) else []


def _with_losses(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a loss: gradients have a cadence of their own."""
    return [row for row in rows if any(row.get(key) is not None and not np.isnan(row[key]) for key in LOSSES)]


def _nearby(table: Table, clock: str, row: int) -> float:
    """The time of a row without one: what is logged at other moments of a step is in rows of its own."""
    steps, times = table.numbers("step"), table.numbers(clock)
    known = np.isfinite(times) & np.isfinite(steps)
    if not known.any():
        return float("nan")
    order = np.argsort(steps[known], kind="stable")
    return float(np.interp(steps[row], steps[known][order], times[known][order], left=np.nan, right=np.nan))


def _of_report(path: Path) -> Table:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        history = stored["history"]
    except (ValueError, KeyError, TypeError) as error:
        raise EquivProbeError(
            f"{path} without a history", "the report of a run", 'report.save("report.json")'
        ) from error
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise EquivProbeError(f"{path} with another history", "the report of a run", 'report.save("report.json")')
    if not history:
        raise EquivProbeError(f"{path} with an empty history", "the report of a training run")
    return _rows(history, path.name)


def _of_events(files: list[Path]) -> Table:
    try:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
    except ImportError as error:
        raise EquivProbeError("no tensorboard", "TensorBoard", "pip install 'equiv-probe[tensorboard]'") from error
    rows: list[dict[str, Any]] = []
    folders = list(dict.fromkeys(file.parent for file in files))
    common = Path(os.path.commonpath(folders))
    for folder in folders:
        readers = [EventAccumulator(str(file), size_guidance={SCALARS: 0}) for file in files if file.parent == folder]
        rows += _scalars(readers, "" if len(folders) == 1 else folder.relative_to(common).as_posix())
    rows = _with_losses(without_repeats(rows))
    if not rows:
        raise EquivProbeError(f"{files[0].parent} without {PREFIX}<stage>/<output>/...", "the callback's entries")
    return _rows(rows, str(files[0].parent.name))


def _scalars(readers: list[Any], run: str) -> list[dict[str, Any]]:
    """Rows of a folder: its files are parts of one run, between which the clock stood still."""
    found: list[dict[str, Any]] = []
    parts = []
    for reader in readers:
        reader.Reload()
        entries = {tag: reader.Scalars(tag) for tag in reader.Tags()["scalars"]}
        times = [event.wall_time for events in entries.values() for event in events]
        if times:
            parts.append((min(times), max(times), entries))
    ended: float | None = None
    start = idle = 0.0
    for began, last, entries in sorted(parts, key=lambda part: part[0]):
        start = began if ended is None else start
        idle += 0.0 if ended is None else max(began - ended, 0.0)
        ended = last if ended is None else max(ended, last)
        clock = {event.step: event.value for event in entries.get(CLOCK, ())}
        rows: dict[tuple[str, str, int], dict[str, Any]] = {}
        for tag, events in entries.items():
            for event, (stage, output, key) in itertools.product(events, _places(tag)):
                place = {"step": event.step, "stage": stage, "output": output}
                row = rows.setdefault((stage, output, event.step), place)
                row["seconds"] = clock.get(event.step, np.nan) if clock else event.wall_time - start - idle
                row[key] = event.value
                if run:
                    row["run"] = run
        found += sorted(rows.values(), key=lambda row: row["step"])
    return found


def _rows(rows: list[dict[str, Any]], source: str) -> Table:
    if not rows:
        raise EquivProbeError(f"{source} without values", "a log with the callback's columns")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return table_of({name: [row.get(name) for row in rows] for name in names}, source)


def without_repeats(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of each run, stage and output with rising steps.

    A step that goes back begins the run again from there: what came after it before is no part of it. Rows at one step
    are one row. A row that repeats the estimate before it, as a callback's logs do between measurements, is left out.

    Args:
        rows: in the order in which they were logged.

    >>> rows = [{"step": s, "L_total": y} for s, y in [(0, 9.0), (10, 8.0), (20, 7.0), (15, 7.5), (20, 7.5), (25, 6.0)]]
    >>> [(row["step"], row["L_total"]) for row in without_repeats(rows)]
    [(0, 9.0), (10, 8.0), (15, 7.5), (25, 6.0)]
    """
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        kept = runs.setdefault(tuple(row.get(name) for name in RUN), [])
        step = row.get("step")
        if step is not None and not math.isnan(step):
            while kept and kept[-1]["step"] > step:
                kept.pop()
            if kept and kept[-1]["step"] == step:
                kept[-1] = {**kept[-1], **_known(row)}
                continue
            kept.append(row)
    return [row for kept in runs.values() for row in _changed(kept)]


def _known(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not (isinstance(value, float) and math.isnan(value))}


def _changed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def values(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in _known(row).items() if name not in PLACE}

    return [row for place, row in enumerate(rows) if place == 0 or values(row) != values(rows[place - 1])]
