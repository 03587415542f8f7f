"""``equiv-probe diagnose``: why a force field breaks symmetry."""

from __future__ import annotations

import contextlib
import json
import sys
from functools import partial
from pathlib import Path  # noqa: TC003 - Typer reads annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equiv_probe.cli.main import wide_console
from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.commands import shared
from equiv_probe_ase.commands.shared import option, require_writable

if TYPE_CHECKING:
    from equiv_probe.report.record import Record


def diagnose_command(  # noqa: PLR0917 - a command line has as many options as it has
    calculator: shared.Model,
    structures: Annotated[str, typer.Argument(help="Any file that ASE reads; FILE@0:50 takes the first fifty.")],
    output: Annotated[
        Path | None, option("-o", "--output", help="File for the diagnosis, .json, .csv or .html.", show="none")
    ] = None,
    device: shared.Device = None,
    dtype: shared.Dtype = None,
    properties: shared.Properties = None,
    vacuum: shared.Vacuum = None,
    everything: Annotated[bool, option("--all", help="Run all experiments, also when the error is explained.")] = False,
    budget: Annotated[int | None, option(help="Number of evaluations beyond which no experiment is begun.")] = None,
    seed: Annotated[int, option(help="Seed of the random rotations.")] = 0,
    layers: Annotated[
        bool, option("--layers", help="Show instead where in the network the error arises, module by module.")
    ] = False,
    batched: shared.Batched = True,
    progress: shared.Progress = True,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Find out why a force field breaks symmetry: experiments, the cheapest first, until one explains the error."""
    shared.require_ase()
    from equiv_probe_ase.calculators.by_name import make_calculator
    from equiv_probe_ase.diagnosis.diagnose import diagnose
    from equiv_probe_ase.diagnosis.trace import trace

    if output is not None:
        if output.suffix not in {".json", ".csv", ".html"}:
            raise EquivProbeError(f"-o {output}", "a name that ends in .json, .csv or .html")
        require_writable(output, "-o")
    # Models print what they like; stdout is for the diagnosis.
    with contextlib.redirect_stdout(sys.stderr), shared.quiet(verbose=verbose):
        common: dict[str, Any] = {
            "properties": shared.properties_of(properties),
            "vacuum": vacuum,
            "batched": batched,
            "budget": budget,
            "seed": seed,
            "progress": progress,
            "name": shared.label_of(None, calculator, dtype, None),
        }
        made = partial(make_calculator, calculator, device=device)
        found: Record = (
            trace(partial(made, dtype=dtype), structures, **common)
            if layers
            else diagnose(
                partial(made, dtype=dtype),
                structures,
                everything=everything,
                in_float64=partial(made, dtype="float64"),
                **common,
            )
        )
    if output is not None:
        found.save(output)
        print(f"Diagnosis: {output}", file=sys.stderr)
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        wide_console().print(found)
