"""The command ``equiv-probe run``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from equiv_probe.cli.shared import by_either_name
from equiv_probe.probe import settings

KNOWN = (
    *("every", "network", "schema", "plan", "full", "cost", "warmup", "window", "augment", "light"),
    *("center", "seed", "stages", "prog_bar", "over", "bins", "gradients", "report", "figures", "verbose"),
    *("on_error", "warn_above", "fail_above"),
    *("log", "trajectory", "conservative_every", "properties", "resume"),  # of molecular dynamics
)
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


def run(
    context: typer.Context,
    script: Annotated[
        str,
        typer.Argument(help="A script, or with -m a module. What follows it are its own arguments."),
    ],
    *,
    module: Annotated[bool, typer.Option("-m", help="SCRIPT is the name of a module, as for python -m.")] = False,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="A setting: every=100, cost=0.1, augment=true, … Repeatable."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="File for the report, .json, .csv or .html.")
    ] = None,
    report: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run a training script as it is, and measure what it trains (Lightning, plain loops) or moves (ASE)."""
    from equiv_probe.cli.run_script import run_script

    asked = settings.parse(os.environ.get(settings.VARIABLE), KNOWN) or {}
    for option in options or []:
        asked |= settings.parse(option, KNOWN) or {}
    if (path := by_either_name("--report", report, "--output", output)) is not None:
        asked["report"] = path
    raise SystemExit(run_script(script, context.args, asked, module=module))
