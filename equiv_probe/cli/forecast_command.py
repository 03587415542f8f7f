"""The command ``equiv-probe forecast``: the share of a run at a later step, as far as it can be told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equiv_probe.cli.scaling_command import chosen
from equiv_probe.cli.shared import require_output, wide_console

if TYPE_CHECKING:
    from equiv_probe.scaling.results import Result
    from equiv_probe.scaling.table import Table

File = Annotated[
    Path, typer.Argument(help="A report of a run (JSON), metrics.csv, a table (CSV), or TensorBoard's files.")
]
KINDS = ("stage", "output")


def forecast_command(
    file: File,
    *,
    to: Annotated[
        float | None,
        typer.Option("--to", help="The step of the forecast.", show_default="twice the last one of the history"),
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="Only rows with column=value; repeatable.")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples for the intervals of the laws.")] = 1000,
    level: Annotated[float, typer.Option(help="Confidence level of the intervals.")] = 0.95,
    unit: Annotated[str, typer.Option(help="Unit of the losses, for figures.")] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Save as .json, .html, .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Forecast the share of a run: today's, with the interval that real runs kept to, beside what power laws say."""
    from equiv_probe.scaling.forecast import forecast
    from equiv_probe.scaling.logs import read_table
    from equiv_probe.scaling.results import save

    parts = _parts(chosen(read_table(file), where or []))
    found: dict[str, Result] = {
        name or "forecast": forecast(part, to, resamples=resamples, level=level, name=name, unit=unit)
        for name, part in parts.items()
    }
    for one in found.values():
        wide_console().print(one)
    if output is not None:
        require_output(output, [file])
        save(output, found)
        print(f"Saved to {output}", file=sys.stderr)


def _parts(table: Table) -> dict[str, Table]:
    """The history of each output: of validation where it was measured at least as often as anything else, by name."""
    if "stage" in table and len(set(table["stage"])) > 1:
        most = max(("val", *dict.fromkeys(table["stage"])), key=lambda stage: (table["stage"] == stage).sum())
        table = table.where(stage=most)
    names = [name for name in KINDS if name in table]
    return {"/".join(map(str, key)): part for key, part in table.by(*names).items()}
