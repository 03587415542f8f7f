"""What the commands have in common: exit codes, the console, the file that a command writes, options with old names.

Options are named alike in all commands: ``-o/--output`` the file to write, ``--batched/--no-batched`` several copies in
one call of the model, ``--reference`` labels that come with structures, ``--progress/--no-progress``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TypeVar

from equiv_probe.errors import EquivProbeError
from equiv_probe.messages import logger

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from rich.console import Console

T = TypeVar("T")

USAGE_ERROR = 2
INTERRUPTED = 130


def wide_console() -> Console:
    """A console on stdout as wide as the terminal or as ``COLUMNS`` says, and 120 columns in a file or a pipe."""
    from rich.console import Console

    is_known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(highlight=False, width=None if is_known else 120)


def require_output(output: Path, inputs: Sequence[Path], suffixes: Collection[str] = ()) -> None:
    """Raise EquivProbeError if the file to write is one of those that are read, or has another suffix."""
    if suffixes and output.suffix not in suffixes:
        raise EquivProbeError(f"-o {output}", f"a name that ends in {' or '.join(sorted(suffixes))}")
    if output.exists() and any(path.exists() and path.samefile(output) for path in inputs):
        raise EquivProbeError(f"-o {output}, one of the files to read", "a file of its own")


def by_either_name(old: str, given: T | None, new: str, value: T | None) -> T | None:
    """The value of an option that may have been given under its old name, which is hidden from the help and warns."""
    if given is None:
        return value
    if value is not None:
        raise EquivProbeError(f"both {old} and {new}", "one of them", new)
    logger.warning(f"the option {old} is now called {new}")
    return given
