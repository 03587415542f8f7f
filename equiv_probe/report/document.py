"""What a result says, as neutral blocks: a result makes them, and each renderer shows them in its own way.

A document is a list of blocks. Numbers in them are numbers: how many digits they get, and what a missing one looks
like, is the renderer's affair. Each block says where it is to be seen (``on``): in the terminal, on the page, in a
notebook.
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes

Medium: TypeAlias = Literal["terminal", "page", "notebook"]
Severity: TypeAlias = Literal["bad", "fair", "good", "unknown"]
"""How grave a finding is: the colour of a headline and of a verdict."""

EVERYWHERE: frozenset[Medium] = frozenset({"terminal", "page", "notebook"})
PAGE: frozenset[Medium] = frozenset({"page"})
TERMINAL: frozenset[Medium] = frozenset({"terminal"})
WHOLE: frozenset[Medium] = frozenset({"terminal", "page"})
"""Where there is room for everything."""
GRAPHICAL: frozenset[Medium] = frozenset({"page", "notebook"})

WIDTH, HEIGHT = 4.7, 3.1
"""Inches of a figure: readable at the width of a phone."""


@dataclass(frozen=True)
class Uncertain:
    """A number with its standard error (``138 ± 4``); NaN as the error leaves it out."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Bound:
    """All that is known of a number is that it lies below (``< 0.2``) or above a value."""

    value: float
    side: Literal["<", ">"] = "<"


@dataclass(frozen=True)
class Verdict:
    """A judgement: one word with its colour, and the sentence for those who have room for it."""

    kind: str
    severity: Severity = "unknown"
    sentence: str = ""


Cell: TypeAlias = str | int | float | tuple[float, float] | Uncertain | Bound | Verdict | None
"""A text, a count, a number (NaN is shown as not measured), the ends of an interval, and so on; None is left empty."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its head.
        unit: of all its numbers, below the head; cells of different units have a column of their own for them.
        kind: ``"number"``, ``"text"`` (to the left; may be wrapped), ``"bar"`` (to the left) or ``"percent"`` (parts of
            one); empty: of text if all its cells are, else of numbers.
        digits: significant ones.
    """

    name: str
    unit: str = ""
    kind: Literal["", "number", "text", "bar", "percent"] = "number"
    digits: int = 3


def columns(*heads: str | Column) -> list[Column]:
    """Columns, some by their names alone: whether they are of text shows in a table's cells."""
    return [Column(head, kind="") if isinstance(head, str) else head for head in heads]


@dataclass(frozen=True)
class Headline:
    """The result in one sentence, and a number with its interval.

    Attributes:
        answer: one sentence.
        value: the number; NaN if there is none.
        unit: of it.
        interval: its 95 % interval; NaN at both ends if there is none.
        meaning: what the number is, in a sentence or more.
        beside: what it is compared with, a sentence each.
        severity: for the colour.
        about: the quantity that it is of.
        question: the question above it.
        digits: of the number and its interval.
    """

    answer: str
    value: float = math.nan
    unit: str = ""
    interval: tuple[float, float] = (math.nan, math.nan)
    meaning: str = ""
    beside: Sequence[str] = ()
    severity: Severity = "unknown"
    about: str = ""
    question: str = "Is it broken?"
    digits: int = 3
    on: frozenset[Medium] = EVERYWHERE


@dataclass(frozen=True)
class Table:
    """Rows of cells below typed columns; the first column names the row.

    Attributes:
        title: what it is.
        columns: of the rows.
        rows: of cells, as many as there are columns.
        caption: how to read it: above it on a page, which has no place for the title then.
        hidden: how many rows more there are than are shown.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    hidden: int = 0
    on: frozenset[Medium] = EVERYWHERE

    def __post_init__(self) -> None:
        """Find out which columns are of text where that was not said."""
        known = [one if one.kind else replace(one, kind=self._kind(k)) for k, one in enumerate(self.columns)]
        object.__setattr__(self, "columns", known)

    def _kind(self, place: int) -> Literal["number", "text"]:
        cells = [row[place] for row in self.rows if row[place] is not None]
        return "text" if cells and all(isinstance(cell, (str, Verdict)) for cell in cells) else "number"


@dataclass(frozen=True)
class Figure:
    """A drawing, with what it shows in words.

    Attributes:
        title: above it.
        draw: into Matplotlib axes.
        text: what a reader who does not see it should know.
        caption: below it; empty is the text.
        height: inches.
        polar: whether the axes are.
    """

    title: str
    draw: Callable[[Axes], Any]
    text: str
    caption: str = ""
    height: float = HEIGHT
    polar: bool = False
    on: frozenset[Medium] = PAGE


@dataclass(frozen=True)
class Structures:
    """Structures to look at in 3D beside a table of them, in which a row is chosen.

    Attributes:
        table: of structures.
        scene: makes what chemiscope is given (:mod:`equiv_probe.report.page.viewer`); None if there is nothing to show.
        places: of rows that can be shown: the place in the scene by the row.
        missing: what is said if there is no scene.
    """

    table: Table
    scene: Callable[[], Mapping[str, Any]] | None
    places: Mapping[int, int] = field(default_factory=dict)
    missing: str = "The report holds no positions of them, so there is no 3D view."
    on: frozenset[Medium] = PAGE


@dataclass(frozen=True)
class Paragraph:
    """Running text; ``lead`` comes before it in bold."""

    text: str
    lead: str = ""
    on: frozenset[Medium] = EVERYWHERE


@dataclass(frozen=True)
class Note:
    """What a reader must know to use the numbers; a warning stands above them."""

    text: str
    warning: bool = False
    on: frozenset[Medium] = EVERYWHERE


@dataclass(frozen=True)
class Listing:
    """Items of one kind, such as what a measurement cannot see."""

    title: str
    items: Sequence[str]
    on: frozenset[Medium] = WHOLE


@dataclass(frozen=True)
class Protocol:
    """How it was measured, by name."""

    lines: Mapping[str, Any]
    on: frozenset[Medium] = WHOLE


@dataclass(frozen=True)
class Section:
    """Blocks below a heading, which is a question as people ask it.

    Attributes:
        title: the heading.
        blocks: in it; without any the heading is left out.
        folded: whether a page shows them on request only.
    """

    title: str
    blocks: Sequence[Block]
    folded: bool = False
    on: frozenset[Medium] = EVERYWHERE


Block: TypeAlias = Headline | Table | Figure | Structures | Paragraph | Note | Listing | Protocol | Section


@dataclass(frozen=True)
class Document:
    """Everything that a result says.

    Attributes:
        name: of what was measured.
        source: on what.
        blocks: in the order in which people ask.
        remark: behind the source at the top of a page.
    """

    name: str
    source: str
    blocks: Sequence[Block]
    remark: str = ""

    def on(self, medium: Medium) -> Document:
        """What is to be seen there; sections of which nothing is left are gone."""
        return Document(self.name, self.source, list(_seen(self.blocks, medium)), self.remark)

    @property
    def headline(self) -> Headline | None:
        """The first one."""
        return next((block for block in self.blocks if isinstance(block, Headline)), None)

    def each(self) -> Iterator[Block]:
        """All blocks, those in sections too."""
        return _each(self.blocks)


@runtime_checkable
class Documented(typing.Protocol):
    """What describes itself as a document, and gives its numbers as plain data."""

    def document(self) -> Document:
        """The document."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""


def method(
    protocol: Mapping[str, Any],
    notes: Sequence[str] = (),
    failures: Sequence[Block] = (),
    blind_spots: Sequence[str] = (),
) -> list[Section]:
    """How it was measured and what it cannot tell: what every document ends with."""
    unknown = Paragraph("The report does not say.", on=PAGE)
    return [
        Section("How was it measured?", [Protocol(protocol), *map(Note, notes), *failures]),
        Section("What can it not tell?", [Listing("Does not see", blind_spots) if blind_spots else unknown]),
    ]


def _seen(blocks: Sequence[Block], medium: Medium) -> Iterator[Block]:
    for block in blocks:
        if medium not in block.on:
            continue
        if not isinstance(block, Section):
            yield block
        elif inner := list(_seen(block.blocks, medium)):
            yield Section(block.title, inner, block.folded, block.on)


def _each(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Section):
            yield from _each(block.blocks)
