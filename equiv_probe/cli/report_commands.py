"""Commands on what was measured before: ``report`` and ``compare`` of saved reports, ``scaling`` and ``forecast``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from equiv_probe.cli.scaling_command import forecast_command, scaling_command
from equiv_probe.cli.shared import require_output, wide_console

Files = Annotated[list[Path], typer.Argument(help="Reports in JSON, as audits and training runs save them.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``equiv-probe``."""
    app.command("report", epilog="Example: equiv-probe report old.json new.json -o both.html")(report_command)
    app.command("compare", epilog="Example: equiv-probe compare old.json new.json -o change.html")(compare_command)
    app.command("scaling", epilog="Example: equiv-probe scaling runs.csv --x N,D -o laws.html")(scaling_command)
    app.command("forecast", epilog="Example: equiv-probe forecast report.json -o ahead.html")(forecast_command)


def report_command(
    files: Files,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page to write, .html.", show_default="FILE.html")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.", show_default="the models' names")] = "",
) -> None:
    """Make one self-contained page of reports: figures, tables, and the worst structures in 3D."""
    from equiv_probe.report.loading import load
    from equiv_probe.report.page import page

    output = output or files[0].with_suffix(".html")
    require_output(output, files, {".html", ".htm"})
    text = page([load(path) for path in files], title)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(f"Page: {output}", file=sys.stderr)


def compare_command(
    files: Files,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Save the comparison as .html or .json.")
    ] = None,
    fail_on_regression: Annotated[
        bool,
        typer.Option("--fail-on-regression", help="Exit with 1 if an error grew, by more than chance and --limit."),
    ] = False,
    limit: Annotated[float, typer.Option(min=0.0, help="Growth of √L_equiv that is let pass, 0.05 for 5 %.")] = 0.05,
) -> None:
    """Put reports side by side: what differs from the first, by how much, and whether that is more than chance."""
    from equiv_probe.results.comparison import compare
    from equiv_probe.results.report import Report

    if output is not None:
        require_output(output, files, {".html", ".json"})
    reports = [Report.load(path) for path in files]
    found = compare(reports, names_of(files))
    wide_console().print(found)
    if output is not None:
        found.save(output)
        print(f"Comparison: {output}", file=sys.stderr)
    if fail_on_regression:
        from equiv_probe.results.regressions import regressions

        worse = regressions(found, reports, limit)
        for line in worse:
            print(f"--fail-on-regression: {line}", file=sys.stderr)
        if worse:
            raise typer.Exit(1)


def names_of(files: list[Path]) -> list[str]:
    """The shortest ends of the paths that differ between the files.

    >>> names_of([Path("runs/a/report.json"), Path("runs/b/report.json")])
    ['a/report', 'b/report']
    >>> names_of([Path("runs/a.json"), Path("runs/b.json")])
    ['a', 'b']
    """
    parts = [path.with_suffix("").parts for path in files]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({place})" for place, path in enumerate(files, 1)]
