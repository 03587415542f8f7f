"""The command ``equiv-probe merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from equiv_probe.cli.shared import require_output
from equiv_probe_ase.commands import shared
from equiv_probe_ase.commands.output_files import require_writable, save
from equiv_probe_ase.commands.shared import FAILED, option


def merge_command(
    journals: Annotated[
        list[Path], typer.Argument(help="The .jsonl files of the parts.", metavar="journals", show_default=False)
    ],
    output: Annotated[Path, option("-o", "--output", help="File for the report, .json, .csv or .html.")] = Path(
        "merged.json"
    ),
    fail_above: shared.FailAbove = None,
    as_json: shared.AsJson = False,
) -> None:
    """Put the parts of an audit together; what is missing is named, and then the exit code is 1.

    The parts come from equiv-probe audit MODEL structures.xyz --part 3/16 -o parts/3.json, in job 3 of 16.
    """
    shared.require_ase()
    from equiv_probe_ase.auditing.merge import merge

    thresholds = shared.limits(fail_above)
    require_output(output, journals, {".json", ".csv", ".html"})
    require_writable(output, "-o")
    report = merge(journals)
    unsaved = save(report, output)
    shared.show(report, f"Report: {unsaved or output}", as_json=as_json)
    raise typer.Exit(FAILED if unsaved or not report.complete else shared.exit_code(report, thresholds))
