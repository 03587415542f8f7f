"""The commands ``scaling`` and ``forecast``: laws of runs, the gap between two models, a share at a later step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from equiv_probe.cli.shared import require_output, wide_console
from equiv_probe.errors import EquivProbeError
from equiv_probe.messages import logger

if TYPE_CHECKING:
    from equiv_probe.scaling.allocation import Allocation
    from equiv_probe.scaling.law import Fit
    from equiv_probe.scaling.results import Result
    from equiv_probe.scaling.table import Table

Files = Annotated[
    list[Path], typer.Argument(help="Tables (CSV), reports of runs (JSON), metrics.csv, or TensorBoard's files.")
]
File = Annotated[
    Path, typer.Argument(help="A report of a run (JSON), metrics.csv, a table (CSV), or TensorBoard's files.")
]
KINDS = ("stage", "output")


def scaling_command(
    files: Files,
    *,
    x: Annotated[
        str, typer.Option(help="Columns of the sizes; with --gap, of the cost.", show_default="N,D; seconds")
    ] = "",
    loss: Annotated[str, typer.Option(help="The column of the loss.")] = "L_total",
    by: Annotated[str, typer.Option(help="Column that names the model; each is fitted on its own.")] = "",
    where: Annotated[list[str] | None, typer.Option(help="Only rows with column=value; repeatable.")] = None,
    floor: Annotated[
        float | None, typer.Option(help="Irreducible loss E if it is known: 0 for labels without noise.")
    ] = None,
    bootstrap: Annotated[
        str, typer.Option(help="The bootstrap draws residuals, their signs (wild) or runs.")
    ] = "residuals",
    groups: Annotated[str, typer.Option(help="Columns whose equal rows are drawn together, such as seed.")] = "",
    every_row: Annotated[bool, typer.Option("--every-row", help="Fit all rows, not the last of each run.")] = False,
    compute: Annotated[str, typer.Option(help="Compute at which the best sizes are sought: 1e12,1e13.")] = "",
    cost: Annotated[
        str,
        typer.Option(help="Compute of a run: k of k N D, or a column, such as seconds."),
    ] = "6",
    data: Annotated[str, typer.Option(help="Two models A,B of --by: say how much more data A needs.")] = "",
    is_gap: Annotated[
        bool, typer.Option("--gap", help="Compare models with the first: files, or --by a column.")
    ] = False,
    names: Annotated[
        str, typer.Option(help="Names of the models, A,B.", show_default="the files', or the column's")
    ] = "",
    smooth: Annotated[str, typer.Option(help="Smoothing of curves: minimum, median or none.")] = "minimum",
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples for the intervals.")] = 1000,
    unit: Annotated[str, typer.Option(help="Unit of the loss, for figures.")] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Save as .json, .html, .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Fit scaling laws to runs, or find where one model's loss falls below another's."""
    from equiv_probe.scaling.logs import joined, read_table
    from equiv_probe.scaling.results import save

    tables = [chosen(read_table(path), where or []) for path in files]
    options: dict[str, Any] = {"loss": loss, "resamples": resamples, "unit": unit}
    if is_gap:
        sides = _sides(tables, files, by, _split(names))
        results = _gaps(sides, x=x or "seconds", smooth=cast("Any", smooth), **options)
    else:
        sizes = _split(x) or (["D"] if data else ["N", "D"])
        table = joined(tables) if len(tables) > 1 else tables[0]
        if "step" in table and not every_row:
            table = table.final([*table.runs, *(name for name in sizes if table.name_of(name) not in table.runs)])
        options |= {"floor": floor, "bootstrap": bootstrap, "groups": tuple(_split(groups))}
        if data:
            results = _data_efficiency(table, _two(_split(data), "--data"), by=by or "model", x=sizes[0], **options)
        else:
            models = {str(key[0]): rows for key, rows in table.by(by).items()} if by else {"": table}
            results = _laws(models, sizes, (compute, cost), options)
    for result in results.values():
        wide_console().print(result)
    if output is not None:
        require_output(output, files)
        save(output, results)
        print(f"Saved to {output}", file=sys.stderr)


def _gaps(sides: dict[str, Table], **options: Any) -> dict[str, Result]:
    """The first model compared with each of the others."""
    from equiv_probe.scaling.gap import gap

    first, *others = sides
    pairs = [(first, other) for other in others]
    return {" and ".join(pair): gap(sides[first], sides[pair[1]], names=pair, **options) for pair in pairs}


def _data_efficiency(table: Table, pair: tuple[str, str], **options: Any) -> dict[str, Result]:
    from equiv_probe.scaling.data_efficiency import data_efficiency

    return {" and ".join(pair): data_efficiency(table, *pair, **options)}


def _laws(
    models: dict[str, Table], sizes: list[str], budgets: tuple[str, str], options: dict[str, Any]
) -> dict[str, Result]:
    """The law of every model that has runs enough, and the sizes that are best at the budgets asked for."""
    from equiv_probe.scaling.fitting import fit

    results: dict[str, Result] = {}
    left_out: dict[str, EquivProbeError] = {}
    for name, rows in models.items():
        try:
            law = fit(rows, sizes, name=name, **options)
        except EquivProbeError as error:
            left_out[name] = error
            continue
        results[name or rows.source or "runs"] = law
        if budgets[0]:
            results[f"{name}: best sizes".removeprefix(": ")] = _best(law, rows, *budgets)
    if not results:
        raise next(iter(left_out.values()))
    for name, why in left_out.items():
        logger.warning(f"{name} is left out: {why}")
    return results


def _best(law: Fit, runs: Table, compute: str, cost: str) -> Allocation:
    from equiv_probe.scaling.allocation import allocate
    from equiv_probe.scaling.cost import Cost, measured_cost

    budgets = [_number(one, "--compute") for one in _split(compute)]
    measured = measured_cost(runs, cost, law.x) if cost in runs else Cost(_number(cost, "--cost"))
    return allocate(law, budgets, measured)


def _sides(tables: list[Table], files: list[Path], by: str, names: list[str]) -> dict[str, Table]:
    """Models' rows by their names; the first is what the others are compared with."""
    from equiv_probe.scaling.logs import joined

    if by:
        there = joined(tables) if len(tables) > 1 else tables[0]
        sides = {str(key[0]): rows for key, rows in there.by(by).items()}
        for name in names:
            if name not in sides:
                raise EquivProbeError(f"{by} = {', '.join(sides)}", name, f"--names {','.join(list(sides)[:2])}")
        sides = {name: sides[name] for name in names or sides}
    else:
        stems = [path.stem for path in files]
        known = names or (stems if len(set(stems)) == len(stems) else [str(path) for path in files])
        if len(known) != len(tables):
            raise EquivProbeError(f"--names {','.join(known)}", f"a name for each of {len(tables)} files")
        sides = dict(zip(known, tables, strict=True))
    if len(sides) < 2:
        count = len(tables)
        raise EquivProbeError(
            f"{', '.join(sides)} in {count} file{'s' * (count != 1)}",
            "two models or more",
            "--gap A.csv B.csv, or --by model",
        )
    return sides


def _two(names: list[str], option: str) -> tuple[str, str]:
    if len(names) != 2:
        raise EquivProbeError(f"{option} with {len(names)} models: {', '.join(names)}", "two", "--names A,B")
    return names[0], names[1]


def chosen(table: Table, conditions: list[str]) -> Table:
    """Rows that fulfil all conditions ``column=value``.

    Raises:
        EquivProbeError: a condition is none, or no row fulfils it.
    """
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals:
            raise EquivProbeError(f"--where {condition}", "column=value", "--where stage=val")
        wanted: float | str = value if table[name].dtype.kind == "O" else _number(value, f"--where {name}")
        there = table[name]
        table = table.where(**{name: wanted})
        if not len(table):
            known = ", ".join(dict.fromkeys(str(one) for one in there[:1000]))
            raise EquivProbeError(f"no rows with {condition}", f"a value of {name}: {known}")
    return table


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise EquivProbeError(f"{option} {text}", "a number, or a column of the table") from error


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
