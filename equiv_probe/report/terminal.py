"""Documents in terminals of any width: what does not fit beside something is put below it, and no number is cut."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from equiv_probe.report.cells import said, text_of
from equiv_probe.report.document import Headline, Listing, Note, Paragraph, Protocol, Section, Table, Verdict
from equiv_probe.report.formatting import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import ConsoleOptions, JustifyMethod, RenderableType

    from equiv_probe.report.document import Block, Column, Document, Severity

_COLOURS: dict[Severity, str] = {"good": "green", "fair": "yellow", "bad": "red", "unknown": ""}
_WORDS = 30
"""Columns for a text at the end of a table, at least; it is wrapped into them."""
_ENDLESS = 10_000


def render(document: Document) -> Iterator[RenderableType]:
    """The parts of a document, from the top: what it is of, then its blocks."""
    found = document.on("terminal")
    yield Text.assemble((shown(found.name), "bold"), f" on {shown(found.source)}")
    yield from _rendered(found.blocks)


def as_text(document: Document) -> str:
    """The document as text of at most 120 characters a line."""
    return plain_text(*render(document))


def plain_text(*parts: RenderableType) -> str:
    """What Rich would print, without colours, as text of at most 120 characters a line."""
    console = Console(file=StringIO(), width=120, highlight=False, color_system=None)
    for part in parts:
        console.print(part)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def one_line(document: Document) -> str:
    """The measured model and source, and the headline with its number."""
    top, about = document.headline, f"{document.name} on {document.source}"
    return " ".join((about if top is None else f"{about}: {top.answer} {said(top)}").split())


def _rendered(blocks: Sequence[Block]) -> Iterator[RenderableType]:
    for block in blocks:
        if isinstance(block, Section):
            yield from _rendered(block.blocks)
        elif isinstance(block, Table):
            yield FittedTable(block)
        elif isinstance(block, Headline):
            yield _headline(block)
        elif isinstance(block, Note):
            warns = block.warning
            yield Text(shown(block.text), "bold yellow") if warns else _led("Note: ", block.text)
        elif isinstance(block, Paragraph):
            yield _led(f"{block.lead}: " if block.lead else "", block.text)
        elif isinstance(block, Listing):
            yield _led(f"{block.title} ", "; ".join(block.items))
        elif isinstance(block, Protocol):
            yield _led("Measured with ", "; ".join(f"{name} {value}" for name, value in block.lines.items()))


def _led(lead: str, text: str) -> Text:
    return Text.assemble((shown(lead), "bold"), shown(text))


def _headline(top: Headline) -> Text:
    return Text.assemble((shown(top.answer), f"bold {_COLOURS[top.severity]}".strip()), " ", shown(said(top)))


class FittedTable:
    """A table where there is room for it, else its columns in several tables, each of which begins with the first.

    A text at the end of a row, such as a verdict, is wrapped or put below the tables.

    >>> from equiv_probe.report.document import Column
    >>> found = FittedTable(Table("", [Column(""), Column("one"), Column("another")], [["a", 1, 2]]))
    >>> console = Console(file=StringIO(), width=14)
    >>> console.print(found)
    >>> console.file.getvalue().replace("─", "").split()
    ['one', 'a', '1', 'another', 'a', '2']
    """

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield as many tables as the width takes."""
        columns, width = self.table.columns, options.max_width

        def fits(chosen: Sequence[int], spare: int = 0) -> bool:
            whole = _drawn(self.table, chosen)
            return Measurement.get(console, options.update(width=_ENDLESS), whole).maximum - spare <= width

        everything = range(len(columns))
        if fits(everything, _spare(self.table)):
            yield _drawn(self.table, everything)
            return
        below = [len(columns) - 1] if columns[-1].kind == "text" and _has_verdicts(self.table) else []
        groups: list[list[int]] = [[0]]
        for place in everything[1:]:
            if place in below:
                continue
            if len(groups[-1]) > 1 and not fits([*groups[-1], place]):
                groups.append([0])
            groups[-1].append(place)
        for rank, group in enumerate(groups):
            yield _drawn(self.table if rank == 0 else replace(self.table, title="", hidden=0), group)
        for place in below:
            yield from (
                Text.assemble(f"{shown(text_of(row[0], columns[0]))}: ", _cell(row[place], columns[place]))
                for row in self.table.rows
            )


def _has_verdicts(table: Table) -> bool:
    return any(isinstance(row[-1], Verdict) for row in table.rows)


def _spare(table: Table) -> int:
    """Columns that a text at the end may do without, since words can be wrapped."""
    if table.columns[-1].kind != "text" or not _has_verdicts(table):
        return 0
    return max(0, max(len(text_of(row[-1], table.columns[-1])) for row in table.rows) - _WORDS)


def _drawn(table: Table, chosen: Sequence[int]) -> RichTable:
    more = f" ({table.hidden} more are not shown)" if table.hidden else ""
    title = Text(shown(table.title) + more, "bold")
    made = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for rank, column in enumerate(table.columns[place] for place in chosen):
        is_text = column.kind == "text"
        side: JustifyMethod = "left" if column.kind in {"text", "bar"} or rank == 0 else "right"
        head = f"{column.name}, {column.unit}" if column.unit else column.name
        made.add_column(Text(shown(head)), justify=side, no_wrap=not is_text, overflow="fold")
    for row in table.rows:
        made.add_row(*(_cell(row[place], table.columns[place]) for place in chosen))
    return made


def _cell(cell: Any, column: Column) -> Text:
    style = _COLOURS[cell.severity] if isinstance(cell, Verdict) else ""
    return Text(shown(text_of(cell, column)), style)
