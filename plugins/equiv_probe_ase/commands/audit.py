"""The commands that ASE calculators make possible: ``equiv-probe audit``, ``md`` and ``demo``."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equiv_probe.cli.main import INTERRUPTED, wide_console
from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.commands.shared import FAILED, Renamed, option, quiet, require_ase, show, slug, twirled

if TYPE_CHECKING:
    from equiv_probe.results.report import Report
    from equiv_probe_ase.auditing.thresholds import Threshold


def register(app: typer.Typer) -> None:
    """Add the commands to ``equiv-probe``."""
    app.command("audit", cls=Renamed)(audit_command)
    from equiv_probe_ase.commands.diagnose import diagnose_command
    from equiv_probe_ase.commands.md import md_command

    app.command("diagnose")(diagnose_command)
    app.command("md", cls=Renamed)(md_command)
    app.command("demo")(demo_command)


def audit_command(  # noqa: PLR0917 - a command line has as many options as it has
    calculator: Annotated[str, typer.Argument(help="A preset, module:callable?key=value or file.py:callable.")],
    structures: Annotated[
        str | None,
        typer.Argument(
            help="Any file that ASE reads; FILE@0:50 takes the first fifty.", metavar="structures", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None, option("-o", "--output", help="Report, .json, .csv or .html.", show="audit-….json")
    ] = None,
    device: Annotated[str | None, option(help="cpu, cuda, …")] = None,
    dtype: Annotated[str | None, option(help="float32 or float64, where the model lets you choose.")] = None,
    properties: Annotated[str | None, option(help="Comma-separated, such as energy,forces,stress.")] = None,
    design: Annotated[
        str, option(help="haar, klein, tetrahedral, octahedral, icosahedral, lebedev-7, …")
    ] = "tetrahedral",
    replicates: Annotated[int | None, option(help="Random rotates of the design; four give error bars.")] = None,
    improper: Annotated[bool, option("--improper", help="Average over reflections too.")] = False,
    seed: Annotated[int, option(help="Of the rotations.")] = 0,
    twirl: Annotated[
        str | None, option(help="Audit the calculator averaged over icosahedral, tetrahedral:4, …, or random-frame.")
    ] = None,
    rel_err: Annotated[float | None, option(help="Add rotations until L_equiv is known to this fraction.")] = None,
    max_rotations: Annotated[int, option(help="Per structure, with --rel-err.")] = 960,
    center: Annotated[str, option(help="Of rotation: centroid, origin, cell, or x,y,z in Å.")] = "centroid",
    loss: Annotated[str, option(help="For reference values: mse, mae, mae-norm, huber, huber-norm.")] = "mse",
    reference: Annotated[
        list[str] | None, option(help="A reference value's key: energy=my_energy. Repeatable.")
    ] = None,
    vacuum: Annotated[float | None, option(help="Box margin (Å) for structures without a cell.")] = None,
    fail_above: Annotated[
        list[str] | None, option(help="Exit 1 if √L_equiv is above or a control failed: 1meV/A.")
    ] = None,
    batched: Annotated[
        bool, option("--batched/--no-batched", help="Evaluate many rotations in one model pass where possible.")
    ] = True,
    atoms_per_call: Annotated[int | None, option(help="Most atoms in one model pass.")] = None,
    fresh: Annotated[bool, option("--fresh", help="Start over instead of resuming.")] = False,
    progress: Annotated[
        bool, option("--progress/--no-progress", help="Show how far it is: a bar in a terminal, lines in a log.")
    ] = True,
    as_json: Annotated[bool, option("--json", help="Print the report as JSON.")] = False,
    verbose: Annotated[bool, option("-v", "--verbose", help="Show the model's own messages and warnings.")] = False,
) -> None:
    """Measure how much rotation symmetry a force field breaks, and whether that is more than round-off."""
    require_ase()
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe_ase.auditing.audit import audit
    from equiv_probe_ase.auditing.thresholds import Threshold
    from equiv_probe_ase.calculators.by_name import make_calculator, spec_fingerprint

    if structures is None:
        raise _one_missing(calculator)
    thresholds = [Threshold.parse(text) for text in fail_above or []]
    plan = RotationPlan(design, replicates, improper, seed)
    path, _, selected = structures.rpartition("@") if "@" in structures else (structures, "", "")
    part = f"-{selected}" if selected else ""  # two parts of one file are two audits
    model = slug(calculator) + (f"-{slug(twirl)}" if twirl else "")
    output = output or Path(f"audit-{model}-{slug(Path(path).name + part)}.json")
    if any(
        name.exists() and Path(path).exists() and name.samefile(path) for name in (output, output.with_suffix(".jsonl"))
    ):
        raise EquivProbeError(f"-o {output}, the structures themselves", "a file of its own for the report")
    if output.parent.exists() and not os.access(output.parent, os.W_OK):
        raise EquivProbeError(f"-o {output} in a folder that cannot be written", "a writable folder")
    if output.suffix not in {".json", ".csv", ".html"}:
        raise EquivProbeError(f"-o {output}", "a name that ends in .json, .csv or .html")
    # Models print what they like; stdout is for the report.
    with contextlib.redirect_stdout(sys.stderr), quiet(verbose=verbose):
        report = audit(
            lambda: twirled(make_calculator(calculator, device=device, dtype=dtype), twirl),
            structures,
            properties=[name.strip() for name in properties.split(",")] if properties else None,
            plan=plan,
            center=_center(center),
            loss=loss,
            reference=dict(_pair(text) for text in reference) if reference else None,
            rel_err=rel_err,
            max_rotations=max_rotations,
            vacuum=vacuum,
            batched=batched,
            atoms_per_call=atoms_per_call,
            journal=output.with_suffix(".jsonl"),
            fresh=fresh,
            progress=progress,
            name=calculator + (f" in {dtype}" if dtype else "") + (f", twirled: {twirl}" if twirl else ""),
            fingerprint=spec_fingerprint(calculator),
        )
    report.save(output)
    files = f"Report: {output}; results as they came: {output.with_suffix('.jsonl')} (the same command resumes from it)"
    show(report, files, as_json=as_json)
    raise typer.Exit(_exit_code(report, thresholds))


def demo_command() -> None:
    """Audit CHGNet and a small unconstrained transformer on embedded molecules, side by side (a minute, no network)."""
    require_ase()
    from equiv_probe_ase.commands.demo import demo

    with quiet(verbose=False):
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


def _exit_code(report: Report, thresholds: list[Threshold]) -> int:
    if not report.complete:
        return INTERRUPTED
    if not report.structures:
        print("Nothing could be measured: every structure failed.", file=sys.stderr)
        return FAILED
    from equiv_probe.estimation.controls import failures_of
    from equiv_probe_ase.auditing.thresholds import exceeded

    lines = [line for threshold in thresholds for line in exceeded(threshold, report)]
    if thresholds and report.failures:  # a guard does not wave through what it could not look at
        lines.append(
            f"--fail-above: {len(report.failures)} measurements failed and could not be compared with the limit"
        )
    if thresholds:  # nor what is not to be believed
        lines += [f"--fail-above: a control failed: {sentence}" for sentence in failures_of(report.controls)]
    for line in lines:
        print(line, file=sys.stderr)
    return FAILED if lines else 0


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
