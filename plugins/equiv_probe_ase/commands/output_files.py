"""Files that a command writes: refused before it runs, since afterwards there would be nothing to show for it."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from pathlib import Path

    from equiv_probe.results.report import Report


def require_writable(path: Path, option: str) -> None:
    """Refuse a file that could not be written; it is left as it is, and not made, only its folder.

    What permissions alone say is not enough: on a disk that is mounted read-only they allow everything. Where there is
    no file yet another is tried, without a name, so that nothing is taken away from a process that makes it just now.

    Raises:
        EquivProbeError: with what the system says, and the ``option`` that named the file.
    """
    there = path.exists()
    if there and not path.is_file():  # what is written to a device is gone, and what is read from it has no end
        kind = "a folder" if path.is_dir() else "a device"
        raise EquivProbeError(f"{option} {path}, which cannot be written (it is {kind})", "a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") if there else TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise EquivProbeError(f"{option} {path}, which cannot be written ({reason})", "a writable place") from error


def save(report: Report, path: Path) -> str:
    """Save a report; why it could not be saved, in a line, or nothing: numbers that took hours must be printed."""
    try:
        report.save(path)
    except OSError as error:
        return f"the report could not be written to {path}: {error.strerror or error}"
    return ""
