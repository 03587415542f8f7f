"""Results from files: each kind by its name, imported when it is met, and files with the suffix that says how."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.stored_data import parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from equiv_probe.report.record import Record

_KINDS: dict[str, str] = {
    "report": "equiv_probe.results.report:Report",
}
"""Where each kind is, ``module:Class``: nothing is imported before a file of that kind is read."""
_FIRST = {"sampler": "sampler", "cube": "grid", "matrix": "curvature", "direction": "line", "contrasts": "comparison"}
"""Entries of files of version 1, which do not name their kind, that only one kind has."""


def register(kind: str, place: str) -> None:
    """Make a kind of result known.

    Args:
        kind: its name in files.
        place: ``"module:Class"``, of a :class:`equiv_probe.report.record.Record`.
    """
    _KINDS[kind] = place


def load(path: str | Path) -> Record:
    """Read any kind of result that was saved as JSON.

    Raises:
        EquivProbeError: there is no such file, or no result in it; the message names the file and the place.
    """
    path = Path(path)
    stored = parsed(path)
    with naming(path):
        return from_dict(stored)


def from_dict(stored: Any) -> Record:
    """Make a result of any kind of what its ``to_dict`` gave.

    Raises:
        EquivProbeError: it is none.
    """
    if not isinstance(stored, dict):
        raise EquivProbeError(f"a report: a {type(stored).__name__}", "an object", 'what save("report.json") writes')
    kind = stored["kind"] if stored.get("schema_version") != 1 and "kind" in stored else kind_of_first(stored)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise EquivProbeError(f"a {str(kind)[:40]!r}", f"one of {', '.join(sorted(_KINDS))}")
    module, _, name = _KINDS[kind].partition(":")
    found: Record = getattr(import_module(module), name).from_dict(stored)
    return found


def kind_of_first(stored: Mapping[str, Any]) -> str:
    """The kind of a file of version 1."""
    return next((kind for name, kind in _FIRST.items() if name in stored), "report")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Put the file's name into what is said about its contents."""
    try:
        yield
    except EquivProbeError as error:
        if error.found.startswith((str(path), "no file ")):
            raise
        found = f"{path}, which is not a report of this version ({error.found})"
        raise EquivProbeError(found, error.expected, error.fix) from error


def write(path: Path, ways: Mapping[str, Callable[[], str | bytes]]) -> None:
    """Write a file in the way that its suffix asks for, in a folder that is made where there is none.

    Args:
        path: of the file.
        ways: what makes the contents, by suffix.

    Raises:
        EquivProbeError: another suffix.
    """
    if path.suffix not in ways:
        *first, last = ways
        allowed = f"{', '.join(first)} or {last}" if first else last
        raise EquivProbeError(f"the suffix {path.suffix!r}", allowed, 'save("report.json")')
    made = ways[path.suffix]()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made if isinstance(made, bytes) else made.encode())
