"""The commands that ASE calculators make possible: ``equiv-probe audit``, ``md`` and ``demo``."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from equiv_probe.cli.shared import require_output, wide_console
from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.commands import shared
from equiv_probe_ase.commands.shared import FAILED, Renamed, option, require_writable, save


def register(app: typer.Typer) -> None:
    """Add the commands to ``equiv-probe``."""
    app.command("audit", cls=Renamed, epilog="Example: equiv-probe audit chgnet structures.xyz -o chgnet.html")(
        audit_command
    )
    from equiv_probe_ase.commands.diagnose import diagnose_command
    from equiv_probe_ase.commands.md import md_command

    app.command("merge", epilog="Example: equiv-probe merge parts/*.jsonl -o report.html")(merge_command)

    app.command("diagnose", epilog="Example: equiv-probe diagnose mace:my.model structures.xyz@0:5")(diagnose_command)
    app.command("md", cls=Renamed, epilog="Example: equiv-probe md emt structure.xyz --steps 500")(md_command)
    app.command("demo", epilog="Example: equiv-probe demo")(demo_command)


def audit_command(  # noqa: PLR0917 - a command line has as many options as it has
    calculator: shared.Model,
    structures: Annotated[
        str | None,
        typer.Argument(
            help="Any file that ASE reads; FILE@0:50 takes the first fifty.", metavar="structures", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None, option("-o", "--output", help="File for the report, .json, .csv or .html.", show="audit-….json")
    ] = None,
    device: shared.Device = None,
    dtype: shared.Dtype = None,
    properties: shared.Properties = None,
    design: shared.Design = "tetrahedral",
    replicates: shared.Replicates = None,
    improper: Annotated[bool, option("--improper", help="Average over reflections too.")] = False,
    seed: Annotated[int, option(help="Seed of the random rotations.")] = 0,
    twirl: shared.Twirl = None,
    rel_err: Annotated[float | None, option(help="Add rotations until L_equiv is known to this fraction.")] = None,
    max_rotations: Annotated[int, option(help="With --rel-err, the most rotations of one structure.")] = 960,
    center: Annotated[str, option(help="Centre of rotation: centroid, origin, cell, or x,y,z in Å.")] = "centroid",
    loss: Annotated[str, option(help="Loss where there are labels: mse, mae, mae-norm, huber or huber-norm.")] = "mse",
    reference: Annotated[
        list[str] | None, option(help="Where a reference value is stored, such as energy=my_energy. Repeatable.")
    ] = None,
    vacuum: shared.Vacuum = None,
    fail_above: shared.FailAbove = None,
    batched: shared.Batched = True,
    atoms_per_call: Annotated[int | None, option(help="The most atoms in one model pass.")] = None,
    part: Annotated[
        str | None, option(help="Measure a part, such as 3/16; equiv-probe merge puts the parts together.")
    ] = None,
    cluster: Annotated[
        str | None,
        option(help="Dask: dask for processes of this machine, tcp://scheduler:8786, or a scheduler's file."),
    ] = None,
    workers: Annotated[int | None, option(help="How many processes, with --cluster dask.", show="one a core")] = None,
    fresh: Annotated[bool, option("--fresh", help="Start over instead of resuming.")] = False,
    name: shared.Name = None,
    max_failures: Annotated[
        int | None,
        typer.Option(min=0, help="Exit with 1 if more measurements than these failed.", show_default="any number may"),
    ] = None,
    progress: shared.Progress = True,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Measure how much rotation symmetry a force field breaks, and whether that is more than round-off.

    Many machines: a job array, each job with its own --part 3/16 -o parts/3.json, then equiv-probe merge parts/*.jsonl;
    a Dask cluster, with --cluster tcp://scheduler:8786; or torchrun --nproc-per-node 8 --no-python equiv-probe audit ….
    """
    shared.require_ase()
    from equiv_probe_ase.auditing.audit import audit
    from equiv_probe_ase.auditing.torchrun import is_first
    from equiv_probe_ase.calculators.by_name import spec_fingerprint

    if structures is None:
        raise _one_missing(calculator)
    thresholds = shared.limits(fail_above)
    plan = {"design": design, "replicates": replicates, "improper": improper, "seed": seed}
    output = _output(output, calculator, twirl, structures, part)
    journal = output.with_suffix(".jsonl")
    with contextlib.redirect_stdout(sys.stderr), shared.quiet(verbose=verbose):  # stdout is for the report
        report = audit(
            partial(shared.calculator_of, calculator, device, dtype, twirl),  # other processes can make it too
            structures,
            properties=shared.properties_of(properties),
            plan=plan,
            center=_center(center),
            loss=loss,
            reference=dict(_pair(text) for text in reference) if reference else None,
            rel_err=rel_err,
            max_rotations=max_rotations,
            vacuum=vacuum,
            batched=batched,
            atoms_per_call=atoms_per_call,
            journal=journal,
            fresh=fresh,
            progress=progress,
            name=shared.label_of(name, calculator, dtype, twirl),
            fingerprint=spec_fingerprint(calculator),
            part=part,
            cluster=cluster,
            workers=workers,
        )
    if not is_first():  # of torchrun's ranks: the first writes what all have found
        raise typer.Exit(0)
    unsaved = save(report, output)
    files = f"Report: {unsaved or output}; results as they came: {journal} (the same command resumes from it)"
    shared.show(report, files, as_json=as_json)
    raise typer.Exit(FAILED if unsaved else shared.exit_code(report, thresholds, max_failures))


def _output(given: Path | None, calculator: str, twirl: str | None, structures: str, part: str | None) -> Path:
    """The file for the report: the one that was named if it can be, or one of its own for each audit."""
    path, _, selected = structures.rpartition("@") if "@" in structures else (structures, "", "")
    parts = "".join(f"-{one}" for one in (selected, part and part.replace("/", "-of-")) if one)  # audits of their own
    name = shared.file_name("audit", calculator, twirl, Path(path).name + parts) + ".json"
    output = given or Path(name)
    from equiv_probe_ase.auditing.torchrun import is_first

    if output.is_dir():
        raise EquivProbeError(f"-o {output}, a folder", "a file for the report", f"-o {output / name}")
    require_output(output, [Path(path)], {".json", ".csv", ".html"})
    require_output(output.with_suffix(".jsonl"), [Path(path)])
    for one in (output, output.with_suffix(".jsonl")) if is_first() else ():  # other ranks write nothing
        require_writable(one, "-o")
    return output


def demo_command() -> None:
    """Audit CHGNet and a small unconstrained transformer on embedded molecules, side by side (a minute, no network)."""
    shared.require_ase()
    from equiv_probe_ase.commands.demo import demo

    with shared.quiet(verbose=False):
        demo(wide_console())


def _one_missing(given: str) -> EquivProbeError:
    """One argument where two are needed: a trajectory says what made it, but not with which options or weights."""
    if not Path(given.rpartition("@")[0] or given).exists():
        return EquivProbeError(f"no structures for {given}", "a file", f"equiv-probe audit {given} structures.xyz")
    from equiv_probe_ase.structures.loading import load

    calc = load(given)[0].atoms.calc
    made = (
        f" (written with one that calls itself {calc.name!r})"
        if getattr(calc, "name", None) not in {None, "unknown"}
        else ""
    )
    return EquivProbeError(
        f"{given} without a calculator{made}", "a calculator, then structures", f"equiv-probe audit emt {given}"
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, key = text.partition("=")
    if not equals:
        raise EquivProbeError(f"--reference {text}", "property=key", "--reference energy=my_energy")
    return name, key


def _center(text: str) -> Any:
    if "," not in text:
        return text
    try:
        point = [float(part) for part in text.split(",")]
    except ValueError:
        point = []
    if len(point) != 3:
        raise EquivProbeError(f"--center {text}", "centroid, origin, cell, or x,y,z in Å")
    return point


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
