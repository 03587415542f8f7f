"""A document as the templates take it: with its figures drawn, and ids of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from equiv_probe.report.document import Note, Structures
from equiv_probe.report.page.figures import svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from equiv_probe.report.document import Block, Document, Figure


@dataclass
class DocumentView:
    """A document on a page.

    Attributes:
        document: it, with what is to be seen there.
        key: unlike any other's on the page; for ids.
        dataset: for the 3D view, or None.
    """

    document: Document
    key: str
    dataset: Any = None
    _drawn: dict[int, Markup] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make what the 3D view shows."""
        scenes = (block.scene for block in self.document.each() if isinstance(block, Structures) and block.scene)
        self.dataset = next((make() for make in scenes), None)

    def drawn(self, one: Figure) -> Markup:
        """A figure as an image, with an id that no other has."""
        if id(one) not in self._drawn:
            name = f"{self.key}-f{len(self._drawn)}"
            text = f"{one.title}. {one.text}"
            self._drawn[id(one)] = svg(one.draw, name, text, polar=one.polar, height=one.height)
        return self._drawn[id(one)]


def grouped(blocks: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """Blocks that follow one another and are of one kind, with its name."""
    return [(kind, list(group)) for kind, group in groupby(blocks, _kind)]


def _kind(block: Block) -> str:
    return "Warning" if isinstance(block, Note) and block.warning else type(block).__name__
