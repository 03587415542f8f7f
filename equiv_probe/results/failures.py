"""What could not be measured, and why: at the end of every document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from equiv_probe.report.document import Column, Section, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    Failure = dict[str, Any]
else:  # what is read from files is held to this

    class Failure(TypedDict):
        """What could not be measured, and why."""

        name: str
        error: str


LISTED = 200
"""Failures that a table shows."""


def failed(failures: Sequence[Failure], what: str = "structure") -> list[Section]:
    """A table of what could not be measured, folded up on a page; nothing if all was."""
    if not failures:
        return []
    many, listed = len(failures), failures[:LISTED]
    title = f"Not measured: {many}" + (f", the first {LISTED} listed" if many > LISTED else "")
    columns = [Column(what, kind="text"), Column("reason", kind="text")]
    return [Section(title, [Table(title, columns, [[one["name"], one["error"]] for one in listed])], folded=True)]


def remark(failures: Sequence[Failure]) -> str:
    """How many there are, for the top of a page."""
    return f"{len(failures)} could not be measured" if failures else ""
