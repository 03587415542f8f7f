"""What the commands have in common: options, quiet models, averaged calculators, and how a report is shown."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand

from equiv_probe.cli.shared import INTERRUPTED, wide_console
from equiv_probe.errors import EquivProbeError
from equiv_probe.messages import logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ase.calculators.calculator import Calculator

    from equiv_probe.results.report import Report
    from equiv_probe_ase.auditing.thresholds import Threshold

FAILED = 1


class Renamed(TyperCommand):
    """A command some of whose options have new names: the old ones work, say so on stderr, and are in no help."""

    OLD_NAMES: ClassVar[Mapping[str, str]] = {
        "--batch": "--batched",
        "--no-batch": "--no-batched",
        "--quiet": "--no-progress",
    }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Click's, of the options by their new names."""
        for place, old in enumerate(args):
            if old in self.OLD_NAMES:
                args[place] = self.OLD_NAMES[old]
                logger.warning(f"the option {old} is now called {args[place]}")
        return super().parse_args(ctx, args)


def option(*names: str, help: str, show: str | bool = True) -> Any:  # noqa: A002 - Typer's word
    """An option of a command, with its help and what to show as its default."""
    return typer.Option(*names, help=help, show_default=show)


Model = Annotated[
    str, typer.Argument(help="A preset (see equiv-probe doctor), module:callable?key=value or file.py:callable.")
]
Device = Annotated[str | None, option(help="Where the model runs: cpu, cuda, …")]
Dtype = Annotated[str | None, option(help="Precision, float32 or float64, where the model lets you choose.")]
Properties = Annotated[str | None, option(help="Comma-separated, such as energy,forces,stress.")]
Design = Annotated[
    str, option(help="Rotations to average over: haar, klein, tetrahedral, octahedral, icosahedral, design-7, …, auto")
]
Replicates = Annotated[int | None, option(help="How many times the design is rotated at random; four give error bars.")]
Twirl = Annotated[
    str | None,
    option(
        help="Average the calculator over rotations first: icosahedral, tetrahedral:4, octahedral:oriented, …, auto, "
        "or random-frame."
    ),
]
Vacuum = Annotated[float | None, option(help="Margin of a box around structures without a cell, Å.")]
Batched = Annotated[
    bool, option("--batched/--no-batched", help="Evaluate many rotations in one model pass where possible.")
]
FailAbove = Annotated[
    list[str] | None,
    option(help="Exit with 1 if √L_equiv is above, such as 1meV/A, or a control failed. Repeatable."),
]
Progress = Annotated[
    bool,
    option("--progress/--no-progress", " /-q", help="Show how far it is: a bar in a terminal, lines in a log."),
]
Name = Annotated[
    str | None, option(help="What the report calls the calculator.", show="as it was given, without folders")
]
AsJson = Annotated[bool, option("--json", help="Print the report as JSON.")]
Verbose = Annotated[bool, option("-v", "--verbose", help="Show the model's own messages and warnings.")]


def calculator_of(name: str, device: str | None, dtype: str | None, twirl: str | None) -> Calculator:
    """The calculator of a command line, averaged over rotations if that was asked for."""
    from equiv_probe_ase.averaging.plans import parse_twirl
    from equiv_probe_ase.averaging.twirled_calculator import TwirledCalculator
    from equiv_probe_ase.calculators.by_name import make_calculator

    calculator = make_calculator(name, device=device, dtype=dtype)
    return calculator if twirl is None else TwirledCalculator(calculator, **parse_twirl(twirl), store_std=False)


def properties_of(given: str | None) -> list[str] | None:
    """The properties of a command line.

    >>> properties_of("energy, forces"), properties_of(None)
    (['energy', 'forces'], None)
    """
    return [name.strip() for name in given.split(",")] if given else None


def label_of(given: str | None, calculator: str, dtype: str | None, twirl: str | None) -> str:
    """What a report calls the calculator of a command line: the name that was given, or the calculator without folders.

    >>> label_of(None, "/home/me/model.py:make?weights=/data/w.pt", "float64", None), label_of("my", "emt", None, None)
    ('model.py:make?weights=w.pt in float64', 'my')
    """
    if given is not None:
        return given
    name = re.sub(r"[^:=?&]*/", "", calculator)
    return name + (f" in {dtype}" if dtype else "") + (f", twirled: {twirl}" if twirl else "")


def file_name(command: str, calculator: str, twirl: str | None, structures: str) -> str:
    """The stem of the file that a command writes if none was named."""
    return "-".join([command, slug(calculator), *([slug(twirl)] if twirl else []), slug(structures)])


def require_ase() -> None:
    """Raise EquivProbeError, with what to install, where there is no ASE."""
    if importlib.util.find_spec("ase") is None:
        raise EquivProbeError("no ase", "ASE, for structures and calculators", "pip install 'equiv-probe[ase]'")


@contextlib.contextmanager
def quiet(*, verbose: bool) -> Iterator[None]:
    """Hide the warnings of model packages, which are about their own dependencies and not about the user's input."""
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
        yield


def show(report: Report, files: str, *, as_json: bool) -> None:
    """Print a report on stdout, and on stderr which files there are."""
    if as_json:
        print(json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        wide_console().print(report)
    print(files, file=sys.stderr)


def limits(fail_above: list[str] | None) -> list[Threshold]:
    """The limits of ``--fail-above``."""
    from equiv_probe_ase.auditing.thresholds import Threshold

    return [Threshold.parse(text) for text in fail_above or []]


def exit_code(report: Report, thresholds: list[Threshold], max_failures: int | None = None) -> int:
    """What the command ends with: 0, 1 where a limit is exceeded or nothing was measured, 130 after Ctrl-C."""
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
    if max_failures is not None and len(report.failures) > max_failures:
        lines.append(f"--max-failures {max_failures}: {len(report.failures)} measurements failed")
    for line in lines:
        print(line, file=sys.stderr)
    return FAILED if lines else 0


def slug(text: str) -> str:
    """A calculator or file name as part of a file name."""
    last = Path(text.partition("?")[0].rpartition("/")[2]).name
    return re.sub(r"[^A-Za-z0-9.-]+", "-", last).strip("-") or "calculator"
