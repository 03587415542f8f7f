"""Parts of an audit, put together to the numbers of the whole."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from equiv_probe.errors import EquivProbeError, missing_file
from equiv_probe_ase.auditing.about import About
from equiv_probe_ase.auditing.journal import MARK, SCHEMA_VERSION, Lines, require_same_question
from equiv_probe_ase.auditing.reporting import report_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe.results.report import Report

NAMED = 10
"""Missing parts that are listed by their names."""


def merge(journals: Sequence[str | Path]) -> Report:
    """One report from the journals of several parts, the same as of one audit of all structures.

    Rotations belong to a structure, not to its place or part: a structure that is in several journals was measured at
    the same rotations, and counts once.

    Args:
        journals: files that ``equiv-probe audit --part 3/16`` (or ``audit(..., part="3/16", journal=...)``) wrote, also
            unfinished ones, of one part or of all; or those of several files of structures.

    Returns:
        The report; its notes name what is missing, and ``complete`` is False then.

    Raises:
        EquivProbeError: no journal, or one of other settings or of another calculator; with both values.
    """
    paths = [Path(one) for one in journals]
    if not paths:
        raise EquivProbeError("no journals", "those of the parts", "equiv-probe merge parts/*.jsonl")
    with ExitStack() as stack:
        books = [_read(path, stack) for path in paths]
        for book in books[1:]:
            wanted = f"that of {books[0].path} (on the right)"
            require_same_question(book, books[0].header, wanted, "parts of one audit only", but_for="source")
        abouts = [About.stored(book.header["about"]) for book in books]
        files: dict[tuple[str, int], list[tuple[Lines, About]]] = {}
        for book, about in zip(books, abouts, strict=True):  # wherever the parts were called from
            files.setdefault((book.header["question"]["source"], about.structures), []).append((book, about))
        holders: dict[str, Lines] = {}
        for own in files.values():  # file by file, in the order of its structures
            found = _holders([book for book, _ in own])
            in_order = [key for _, key in sorted((book[key]["index"], key) for key, book in found.items())]
            holders |= {key: found[key] for key in in_order if key not in holders or key in holders[key].failed}
        missing = [line for (name, total), own in files.items() for line in _missing(name, total, own)]
        gradients: dict[str, Mapping[str, Any]] = {}
        for book in books:
            gradients |= book.gradients
        evaluations, calls = (sum(book.work[which] for book in books) for which in (0, 1))
        notes = list(dict.fromkeys(note for about in abouts for note in about.notes))
        return report_of(
            replace(abouts[0], part="", source=", ".join(own[0][1].source for own in files.values()), notes=notes),
            list(holders),
            lambda key: holders[key][key],
            gradients,
            complete=not missing,
            ran={"merged": f"{len(books)} journals", "evaluations": evaluations, "model calls": calls},
            notes=[*missing, *(note for book in books for note in book.notes)],
        )


def _read(path: Path, stack: ExitStack) -> Lines:
    """A journal, or EquivProbeError where a file is none."""
    if not path.is_file():
        raise missing_file(path, "a journal, the .jsonl beside a report", "equiv-probe merge parts/*.jsonl")
    book = Lines(stack.enter_context(path.open("rb")), path)
    if not book.header:
        raise EquivProbeError(f"{path}, which is no journal", "the .jsonl beside a report of equiv-probe audit")
    if book.header[MARK] != SCHEMA_VERSION:
        raise EquivProbeError(
            f"{path}, a journal of version {book.header[MARK]}", f"version {SCHEMA_VERSION}", "the audit once more"
        )
    return book


def _holders(books: Sequence[Lines]) -> dict[str, Lines]:
    """Of every structure a journal that holds it: one that has measured it, if any has."""
    found: dict[str, Lines] = {}
    for book in books:
        for key in book.places:
            if key not in found or (key in found[key].failed and key not in book.failed):
                found[key] = book
    return found


def _missing(name: str, total: int, own: Sequence[tuple[Lines, About]]) -> list[str]:
    """What is not there of one file of structures: parts without a journal, and parts that are not finished."""
    found = len({key for book, _ in own for key in book.places})
    if found >= total:
        return []
    there = {about.part for _, about in own}
    lost = [
        f"{k}/{count}"
        for count in sorted({int(part.partition("/")[2]) for part in there if part})
        for k in range(1, count + 1)
        if f"{k}/{count}" not in there
    ]
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    said = [f"no journal of part{'s' * (len(lost) > 1)} {', '.join(lost[:NAMED])}{more}"] if lost else []
    said += [
        f"{book.path} has {len(book.places)} of the {about.share} of {f'part {about.part}' if about.part else 'all'}"
        for book, about in own
        if len(book.places) < about.share
    ]
    return [f"incomplete: {found} of {total} structures of {name} are there; {'; '.join(said)}"]
