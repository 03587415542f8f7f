"""Results of any kind from files: each names its kind, which is imported when it is met."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.files import naming, parsed
from equiv_probe.report.kinds import class_of, kind_of
from equiv_probe.report.stored_data import FIX

if TYPE_CHECKING:
    from equiv_probe.report.record import Record


def load(path: str | Path) -> Record:
    """Read any kind of result that was saved as JSON.

    Args:
        path: of the file; also of version 1.

    Returns:
        The result as it was saved: a ``Report``, a ``Comparison``, a ``SamplerAudit`` and so on.

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
        raise EquivProbeError(f"a report: a {type(stored).__name__}", "an object", FIX)
    found: Record = class_of(kind_of(stored)).from_dict(stored)
    return found
