"""The command ``equiv-probe md``."""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from equiv_probe.cli.main import explain
from equiv_probe.cli.shared import INTERRUPTED, require_output
from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.commands import shared
from equiv_probe_ase.commands.shared import FAILED, option, require_writable, save


def md_command(  # noqa: PLR0917 - a command line has as many options as it has
    calculator: shared.Model,
    structure: Annotated[str, typer.Argument(help="Any file that ASE reads; of several frames the last.")],
    steps: Annotated[int, option(help="Number of steps in all, those before a resumption included.")] = 1000,
    timestep: Annotated[float, option(help="Time step, fs.")] = 0.5,
    temperature: Annotated[float, option(help="Temperature of the initial momenta and of the thermostat, K.")] = 300.0,
    ensemble: Annotated[str, option(help="nve (constant energy) or langevin (constant temperature).")] = "nve",
    friction: Annotated[float, option(help="Friction of Langevin dynamics, 1/fs.")] = 0.01,
    every: Annotated[int, option(help="Steps between two measurements.")] = 100,
    conservative_every: Annotated[
        int | None,
        option(help="Steps between two checks whether forces are the energy's gradient; 0 for none.", show="10 every"),
    ] = None,
    output: Annotated[
        Path | None,
        option(
            "-o",
            "--output",
            help="Log to write, .csv or .jsonl; or report, .json or .html.",
            show="md-….csv",
        ),
    ] = None,
    traj: Annotated[Path | None, option(help="Trajectory to write, .traj, a frame for each measurement.")] = None,
    resume: Annotated[bool, option("--resume", help="Go on from the last frame of --traj.")] = False,
    design: shared.Design = "klein",
    replicates: shared.Replicates = 4,
    seed: Annotated[int, option(help="Seed of momenta, thermostat and rotations.")] = 0,
    twirl: shared.Twirl = None,
    vacuum: shared.Vacuum = None,
    device: shared.Device = None,
    dtype: shared.Dtype = None,
    batched: shared.Batched = True,
    name: shared.Name = None,
    progress: Annotated[
        bool,
        option("--progress/--no-progress", " /-q", help="Show a running table: each row in a terminal, some in a log."),
    ] = True,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Run molecular dynamics, and see what broken rotation symmetry does to the trajectory."""
    shared.require_ase()
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe_ase.dynamics.interruption import BrokenOffError
    from equiv_probe_ase.dynamics.molecular_dynamics import molecular_dynamics
    from equiv_probe_ase.structures.loading import load

    log, saved = _files(output or Path(shared.file_name("md", calculator, twirl, Path(structure).name) + ".csv"))
    for path, named in ((log, "-o"), (saved, "-o"), (traj, "--traj")):
        if path is not None:
            require_output(path, [Path(structure)])
            require_writable(path, named)
    broken: BrokenOffError | None = None
    with contextlib.redirect_stdout(sys.stderr), shared.quiet(verbose=verbose):  # stdout is for the report
        atoms = load(structure, vacuum=vacuum)[-1].atoms
        try:
            report = molecular_dynamics(
                shared.calculator_of(calculator, device, dtype, twirl),
                atoms,
                steps=steps,
                timestep=timestep,
                temperature=temperature,
                ensemble=ensemble,
                friction=friction,
                seed=seed,
                trajectory=traj,
                resume=resume,
                every=every,
                conservative_every=conservative_every,
                plan=RotationPlan(design, replicates, seed=seed),
                log=log,
                batched=batched,
                progress=progress,
                name=shared.label_of(name, calculator, dtype, twirl),
            )
        except BrokenOffError as error:
            broken, report = error, error.report
    unsaved = save(report, saved)
    files = f"Report: {unsaved or saved}; log: {log}" + (f"; trajectory: {traj}" if traj else "")
    shared.show(report, files, as_json=as_json)
    if broken is not None:
        explain(broken)
        if verbose and broken.__cause__ is not None:
            traceback.print_exception(broken.__cause__)
        raise typer.Exit(FAILED)
    raise typer.Exit(FAILED if unsaved else 0 if report.complete else INTERRUPTED)


def _files(output: Path) -> tuple[Path, Path]:
    """The log and the report, by the one of them that was named."""
    if output.suffix in {".csv", ".jsonl"}:
        return output, output.with_suffix(".json")
    if output.suffix in {".json", ".html"}:
        return output.with_suffix(".jsonl"), output
    raise EquivProbeError(f"-o {output}", "a log that ends in .csv or .jsonl, or a report that ends in .json or .html")
