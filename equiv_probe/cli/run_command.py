"""The command ``equiv-probe run``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from equiv_probe.cli.shared import by_either_name
from equiv_probe.probe import settings

KNOWN = (
    *("every", "network", "schema", "plan", "full", "budget", "warmup", "window", "augment", "light"),
    *("over", "bins"),
    *("center", "seed", "stages", "prog_bar", "report", "verbose"),
    *("log", "trajectory", "conservative_every", "properties", "resume"),  # of molecular dynamics
)
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


def run(
    context: typer.Context,
    script: Annotated[str, typer.Argument(help="Script, or with -m a module; its arguments follow it.")],
    *,
    module: Annotated[bool, typer.Option("-m", help="SCRIPT is the name of a module, as for python -m.")] = False,
    options: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="Settings: every=100, augment=true, network=model.net.")
    ] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="Report to write, .json, .csv or .html.")] = None,
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
