"""The audit of a sampler as Rich tables: the answer first, then its spread, then what was drawn on the way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from equiv_probe.report.formatting import interval, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from equiv_probe.generative.sampler_report import EndPoints, SamplerAudit

_COLOURS = {
    "round-off": "green",
    "non-deterministic": "green",
    "above round-off": "yellow",
    "path only": "yellow",
    "broken": "red",
}


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        words = place == 0 or column in {"verdict", "where"}
        table.add_column(column, justify="left" if words else "right", no_wrap=column != "verdict")
    return table


def render(audit: SamplerAudit) -> Iterator[RenderableType]:
    """The answer first, then its spread, then what was drawn, then how it was measured."""
    counted = f"{audit.measured[0].samples} sample{'s' * (audit.measured[0].samples != 1)}"
    yield Text.assemble((audit.sampler, "bold"), f" on {counted}")
    columns = ("", "deviation", "95 % interval", "unit", "spread", "other noise", "floor", "verdict")
    table = _table("End points of rotated noise, rotated back (root mean square over atoms)", *columns)
    for one in audit.measured:
        floor = max((f for f in (one.floor, one.nondeterminism) if math.isfinite(f)), default=math.nan)
        cells = [one.name, number(one.rms), interval(*one.rms_interval), one.unit]
        cells += [number(value) for value in (one.spread, one.scale, floor)]
        table.add_row(*map(Text, cells), Text(one.sentence, _COLOURS.get(one.verdict, "")))
    yield table
    for one in audit.measured:
        if one.law:
            swapped = f", {one.law['swapped']} runs swapped" if one.law["by_run"] else ""
            found = f"p = {number(one.law['p_value'])} of {one.law['samples']} samples of each kind{swapped}"
            yield Text.assemble((f"In distribution {one.name}: ", "bold"), found)
    title = "Spread: over samples (left), over single rotations and samples (right)"
    table = _table(title, "", "median", "95 %", "max", "worst sample", "median", "95 %", "max", "unit")
    for one in audit.measured:
        left, right = ([number(group[key]) for key in ("q50", "q95", "max")] for group in _quantiles(one))
        table.add_row(*map(Text, (one.name, *left, str(int(one.over_samples["worst"])), *right, one.unit)))
    yield table
    if audit.draws:
        table = _table("Drawn on the way", "call", "shape", "times", "rotated", "where")
        for entry in audit.draws[:12]:
            shape = "(" + ", ".join(map(str, entry["shape"])) + ")"
            table.add_row(
                *map(
                    Text,
                    (entry["call"], shape, str(entry["times"]), "yes" if entry["turned"] else "no", entry["where"]),
                )
            )
        yield table
    if audit.failures:
        listed = "; ".join(f"{entry['name']}: {entry['error']}" for entry in audit.failures[:20])
        yield Text.assemble((f"Left out {len(audit.failures)}: ", "bold red"), listed)
    for note in audit.notes:
        yield Text.assemble(("Note: ", "bold"), note)
    yield Text.assemble(
        ("Measured with ", "bold"), "; ".join(f"{key} {value}" for key, value in audit.protocol.items())
    )
    yield Text.assemble(("Does not see ", "bold"), "; ".join(audit.blind_spots))


def _quantiles(one: EndPoints) -> tuple[dict[str, float], dict[str, float]]:
    return one.over_samples, one.over_rotations
