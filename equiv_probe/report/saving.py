"""Measurements as files: each suffix has one way to write it, and what was saved as JSON is read as what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.stored import ANY, parsed, require, without_nan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from equiv_probe.generative.sampler_report import SamplerAudit
    from equiv_probe.landscape.saved_record import SavedRecord
    from equiv_probe.results.report import Report
    from equiv_probe.voxels.grid_report import GridAudit

    Saved: TypeAlias = Report | SamplerAudit | GridAudit | SavedRecord


def as_json(plain: Mapping[str, Any]) -> str:
    """JSON as its standard has it: what was not measured is null."""
    return json.dumps(without_nan(dict(plain)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(path: str | Path, ways: Mapping[str, Callable[[], str]]) -> None:
    """Write a file in the way that its suffix asks for, in a folder that is made where there is none.

    Args:
        path: of the file.
        ways: what makes the text, by suffix.

    Raises:
        EquivProbeError: another suffix.
    """
    path = Path(path)
    if path.suffix not in ways:
        *first, last = ways
        allowed = f"{', '.join(first)} or {last}" if first else last
        raise EquivProbeError(f"the suffix {path.suffix!r}", allowed, 'save("report.json")')
    text = ways[path.suffix]()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def as_page(found: Saved) -> str:
    """A page to look at.

    Raises:
        EquivProbeError: Matplotlib is not installed.
    """
    from equiv_probe.report.page import page

    return page([found])


def read(path: str | Path, from_dict: Callable[[Any], Any]) -> Any:
    """Read one kind of measurement from JSON.

    Args:
        path: of the file.
        from_dict: what makes it of plain data, and raises EquivProbeError if it is something else.

    Raises:
        EquivProbeError: there is no such file, or something else in it; the message names the file.
    """
    stored = parsed(Path(path))
    try:
        return from_dict(stored)
    except EquivProbeError as error:
        found = f"{path}, which is not a report of this version ({error.found})"
        raise EquivProbeError(found, error.expected, error.fix) from error


def require_version(stored: Any, version: int) -> None:
    """Hold the version of stored data against the one that is read here.

    Raises:
        EquivProbeError: another, or none.
    """
    require(stored, {"schema_version": ANY})
    found = stored["schema_version"]
    if type(found) is not int or found != version:
        raise EquivProbeError(f"schema_version {repr(found)[:60]}", str(version), "the version that wrote the file")
