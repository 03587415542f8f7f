"""A document as the templates take it: with its figures drawn, and ids of its own."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from io import StringIO
from itertools import groupby
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from equiv_probe.report import axes
from equiv_probe.report.axes import figure
from equiv_probe.report.document import Note, Structures
from equiv_probe.report.formatting import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from equiv_probe.report.document import Block, Document, Figure

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
EDGE = "#777777"
VARIABLES = {axes.INK: "ink", axes.LINE: "line", EDGE: "edge", "#1f77b4": "series-1"} | {
    colour: f"series-{place}" for place, colour in enumerate(axes.SERIES)
}
"""Colours of the figures and the names of the style sheet's variables that take their places."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "equiv_probe",  # the same report gives the same page
    "font.size": 10,
    "text.color": axes.INK,
    "axes.labelcolor": axes.INK,
    "axes.edgecolor": EDGE,
    "xtick.color": axes.INK,
    "ytick.color": axes.INK,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
}


@figure
def svg(
    draw: Callable[[Axes], Any], name: str, text: str, *, polar: bool = False, height: float = axes.SIZE[1]
) -> Markup:
    """Draw a figure as an ``<svg>`` element; Matplotlib's XML writer escapes the text in it.

    Args:
        draw: into axes.
        name: unlike that of any other figure of the page; letters, digits and dashes.
        text: what a reader who does not see it should know.
        polar: whether the axes are.
        height: inches.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has other fonts
        drawing = Figure(figsize=(axes.SIZE[0], height), layout="constrained")
        draw(drawing.add_subplot(projection="polar" if polar else None))
        out = StringIO()
        drawing.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(out.getvalue())
    for child in list(root):
        if child.tag.endswith("metadata"):
            root.remove(child)
    for element in root.iter():
        _adapt(element, name)
        if element.tag.endswith("style"):  # Matplotlib's is of every element of the page that holds the figure
            element.text = (element.text or "").replace("*{", f"#{name} *{{")
    root.set("id", name)
    root.attrib.pop("width")
    root.attrib.pop("height")
    root.set("role", "img")
    root.set("aria-label", shown(text))
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _adapt(element: ElementTree.Element, name: str) -> None:
    """Ids of its own, and colours and fonts of the page's."""
    for key, value in list(element.attrib.items()):
        plain = key.rpartition("}")[2]
        if plain == "id":
            element.set(key, f"{name}-{value}")
        elif plain == "href" and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif plain in {"clip-path", "style"}:
            adapted = re.sub(r"url\(#", f"url(#{name}-", value)
            adapted = re.sub(r"font(-family)?:[^;]*'[^;]*;?", _font, adapted)
            element.set(key, re.sub(r"#[0-9a-f]{6}\b", _variable, adapted))


def _font(match: re.Match[str]) -> str:
    size = re.search(r"[\d.]+px", match[0])
    return f"font-size: {size[0]};" if size else ""


def _variable(match: re.Match[str]) -> str:
    name = VARIABLES.get(match[0])
    return f"var(--{name}, {match[0]})" if name else match[0]


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
