"""Files of results: JSON that is read as its standard has it, and written in the way that the suffix asks for."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError, missing_file
from equiv_probe.report.stored_data import FIX, without_nan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


def parsed(path: Path) -> Any:
    """The JSON of a file; NaN and infinities, which some writers put there, are null.

    Raises:
        EquivProbeError: there is no file, or not JSON in it.
    """
    if not path.is_file():
        raise missing_file(path, "a report that was saved as JSON", 'report.save("report.json")')
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin with a mark of byte order
        return without_nan(json.loads(text))
    except (ValueError, RecursionError) as error:  # of nesting without end
        reason = f"{type(error).__name__}: {error}"
        raise EquivProbeError(f"{path}, which is not JSON ({reason[:200]})", "JSON", FIX) from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name into what is said about its contents."""
    try:
        yield
    except EquivProbeError as error:
        found = f"{path}, which is not a report of this version ({error.found})"
        raise EquivProbeError(found, error.expected, error.fix) from error


def write(path: Path, ways: Mapping[str, Callable[[], str | bytes]]) -> None:
    """Write a file in one of the ``ways``, by its suffix, into a folder that is made where there is none.

    The file is the old one or the new one, whole: a kill or a full disk in between leaves the old one.

    Raises:
        EquivProbeError: another suffix.
    """
    if path.suffix not in ways:
        *first, last = ways
        allowed = f"{', '.join(first)} or {last}" if first else last
        raise EquivProbeError(f"the suffix {path.suffix!r}", allowed, 'save("report.json")')
    made = ways[path.suffix]()
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()  # of a link, what it points to is replaced
    fresh = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        fresh.write_bytes(made if isinstance(made, bytes) else made.encode())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
