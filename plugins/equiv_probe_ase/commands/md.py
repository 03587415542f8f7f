"""The command ``equiv-probe md``."""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from equiv_probe.cli.main import INTERRUPTED, explain
from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.commands.shared import FAILED, option, quiet, require_ase, show, slug, twirled


def md_command(  # noqa: PLR0917 - a command line has as many options as it has
    calculator: Annotated[str, typer.Argument(help="A preset, module:callable?key=value or file.py:callable.")],
    structure: Annotated[str, typer.Argument(help="Any file that ASE reads; of several frames the last.")],
    steps: Annotated[int, option(help="How many, those before a resumption included.")] = 1000,
    timestep: Annotated[float, option(help="fs.")] = 0.5,
    temperature: Annotated[float, option(help="K, of the first momenta and of the thermostat.")] = 300.0,
    ensemble: Annotated[str, option(help="nve or langevin.")] = "nve",
    friction: Annotated[float, option(help="Of langevin, 1/fs.")] = 0.01,
    every: Annotated[int, option(help="Steps between two measurements.")] = 100,
    conservative_every: Annotated[
        int | None, option(help="Steps between two looks at F + ∇E; 0 is never.", show="10 every")
    ] = None,
    output: Annotated[
        Path | None,
        option("-o", "--output", help="Log, .csv or .jsonl; or the report, .json or .html.", show="md-….csv"),
    ] = None,
    traj: Annotated[Path | None, option(help="Trajectory, a frame for each measurement.")] = None,
    resume: Annotated[bool, option("--resume", help="Go on from the last frame of --traj.")] = False,
    design: Annotated[str, option(help="klein, tetrahedral, octahedral, icosahedral, haar, …")] = "klein",
    replicates: Annotated[int, option(help="Random rotates of the design; four give error bars.")] = 4,
    seed: Annotated[int, option(help="Of momenta, thermostat and rotations.")] = 0,
    twirl: Annotated[
        str | None, option(help="Average the calculator: icosahedral, tetrahedral:4, random-frame, …", show=False)
    ] = None,
    vacuum: Annotated[float | None, option(help="Box margin (Å) for structures without a cell.")] = None,
    device: Annotated[str | None, option(help="cpu, cuda, …")] = None,
    dtype: Annotated[str | None, option(help="float32 or float64, where the model lets you choose.")] = None,
    batched: Annotated[
        bool, option("--batched/--no-batched", help="Evaluate many rotations in one model pass where possible.")
    ] = True,
    progress: Annotated[
        bool, option("--progress/--no-progress", help="Print a running table: each row in a terminal, few in a log.")
    ] = True,
    as_json: Annotated[bool, option("--json", help="Print the report as JSON.")] = False,
    verbose: Annotated[bool, option("-v", "--verbose", help="Show the model's own messages and warnings.")] = False,
) -> None:
    """Run molecular dynamics, and see what broken rotation symmetry does to the trajectory."""
    require_ase()
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe_ase.calculators.by_name import make_calculator
    from equiv_probe_ase.commands.output_files import require_writable, save
    from equiv_probe_ase.dynamics.interruption import BrokenOffError
    from equiv_probe_ase.dynamics.molecular_dynamics import molecular_dynamics
    from equiv_probe_ase.structures.loading import load

    model = slug(calculator) + (f"-{slug(twirl)}" if twirl else "")
    output = output or Path(f"md-{model}-{slug(Path(structure).name)}.csv")
    log, saved = _files(output)
    for path in (log, saved, traj):
        if path is None:
            continue
        if path.exists() and Path(structure).exists() and path.samefile(structure):
            raise EquivProbeError(f"{path}, the structure itself, to write to", "a file of its own")
        require_writable(path, "--traj" if path == traj else "-o")
    broken: BrokenOffError | None = None
    with contextlib.redirect_stdout(sys.stderr), quiet(verbose=verbose):
        atoms = load(structure, vacuum=vacuum)[-1].atoms
        try:
            report = molecular_dynamics(
                twirled(make_calculator(calculator, device=device, dtype=dtype), twirl),
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
                name=calculator + (f" in {dtype}" if dtype else "") + (f", twirled: {twirl}" if twirl else ""),
            )
        except BrokenOffError as error:
            broken, report = error, error.report
    unsaved = save(report, saved)
    files = f"Report: {unsaved or saved}; log: {log}" + (f"; trajectory: {traj}" if traj else "")
    show(report, files, as_json=as_json)
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
