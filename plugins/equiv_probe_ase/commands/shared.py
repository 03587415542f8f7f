"""What the commands have in common: options, quiet models, averaged calculators, and how a report is shown."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer
from typer.core import TyperCommand

from equiv_probe.cli.main import wide_console
from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ase.calculators.calculator import Calculator

    from equiv_probe.results.report import Report

FAILED = 1


class Renamed(TyperCommand):
    """A command some of whose options have new names: the old ones work, say so on stderr, and are in no help."""

    OLD_NAMES: ClassVar[Mapping[str, str]] = {
        "--batch": "--batched",
        "--no-batch": "--no-batched",
        "--quiet": "--no-progress",
        "-q": "--no-progress",
    }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Click's, of the options by their new names."""
        for place, old in enumerate(args):
            if old in self.OLD_NAMES:
                args[place] = self.OLD_NAMES[old]
                print(f"equiv_probe: the option {old} is now called {args[place]}", file=sys.stderr)
        return super().parse_args(ctx, args)


def option(*names: str, help: str, show: str | bool = True) -> Any:  # noqa: A002 - Typer's word
    """An option of a command, with its help and what to show as its default."""
    return typer.Option(*names, help=help, show_default=show)


def twirled(calculator: Calculator, how: str | None) -> Calculator:
    """The calculator, or its average over the rotations that were asked for."""
    if how is None:
        return calculator
    from equiv_probe_ase.averaging.plans import parse_twirl
    from equiv_probe_ase.averaging.twirled_calculator import TwirledCalculator

    return TwirledCalculator(calculator, *parse_twirl(how), store_std=False)


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


def slug(text: str) -> str:
    """A calculator or file name as part of a file name."""
    last = Path(text.partition("?")[0].rpartition("/")[2]).name
    return re.sub(r"[^A-Za-z0-9.-]+", "-", last).strip("-") or "calculator"
