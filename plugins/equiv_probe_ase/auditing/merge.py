"""Parts of an audit, put together to the numbers of the whole."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.auditing.about import About
from equiv_probe_ase.auditing.journal import MARK, SCHEMA_VERSION, Lines, require_same_question
from equiv_probe_ase.auditing.reporting import report_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from equiv_probe.results.report import Report

NAMED = 10
"""Missing parts that are listed by their names."""


def merge(journals: Sequence[str | Path]) -> Report:
    """One report from the journals of several parts, the same as of one audit of all structures.

    Rotations belong to a structure, not to its place or part: a structure that is in several journals was measured at
    the same rotations, and counts once.

    Args:
        journals: files that ``equiv-probe audit --part 3/16`` (or ``audit(..., part="3/16", journal=...)``) wrote, also
            unfinished ones, of one part or of all.

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
            require_same_question(
                book, books[0].header, f"that of {books[0].path} (on the right)", "parts of one audit only"
            )
        abouts = [About.stored(book.header["about"]) for book in books]
        holders = _holders(books)
        keys = sorted(holders, key=lambda key: holders[key][key]["index"])
        missing = _missing(books, abouts, holders)
        gradients: dict[str, Mapping[str, Any]] = {}
        for book in books:
            gradients |= book.gradients
        evaluations, calls = (sum(book.work[which] for book in books) for which in (0, 1))
        ran = {"merged": f"{len(books)} journals", "evaluations": evaluations, "model calls": calls}
        whole = _as_whole(abouts[0])
        damaged = [note for book in books for note in book.notes]
        return report_of(
            whole,
            keys,
            lambda key: holders[key][key],
            gradients,
            complete=not missing,
            ran=ran,
            notes=[*missing, *damaged],
        )


def _read(path: Path, stack: ExitStack) -> Lines:
    """A journal, or EquivProbeError where a file is none."""
    if not path.is_file():
        raise EquivProbeError(
            f"no file {path}", "a journal, the .jsonl beside a report", "equiv-probe merge parts/*.jsonl"
        )
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


def _as_whole(about: About) -> About:
    from msgspec.structs import replace

    return replace(about, part="", share=about.structures)


def _missing(books: Sequence[Lines], abouts: Sequence[About], holders: Mapping[str, Lines]) -> list[str]:
    """What is not there: parts without a journal, and parts that are not finished."""
    total = abouts[0].structures
    if len(holders) >= total:
        return []
    lines = [f"{len(holders)} of {total} structures are there"]
    counts = {int(about.part.partition("/")[2]) for about in abouts if about.part}
    there = {about.part for about in abouts}
    for count in sorted(counts):
        lost = [f"{k}/{count}" for k in range(1, count + 1) if f"{k}/{count}" not in there]
        if lost:
            more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
            lines.append(f"no journal of {'part' if len(lost) == 1 else 'parts'} {', '.join(lost[:NAMED])}{more}")
    lines += _unfinished(books, abouts)
    return [f"incomplete: {'; '.join(lines)}"]


def _unfinished(books: Sequence[Lines], abouts: Sequence[About]) -> Iterator[str]:
    for book, about in zip(books, abouts, strict=True):
        if len(book.places) < about.share:
            which = f"part {about.part}" if about.part else "all structures"
            yield f"{book.path} has {len(book.places)} of the {about.share} of {which}"
