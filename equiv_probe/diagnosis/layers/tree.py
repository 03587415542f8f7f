"""The calls of a network as a tree with bars."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from equiv_probe.report.axes import ALARM, CALM, figure
from equiv_probe.report.document import PAGE, TERMINAL, Column, Figure, Paragraph, Table, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from equiv_probe.diagnosis.layers.layer import Activation, Layer
    from equiv_probe.report.document import Block, Cell, Severity

ROWS = 60
"""Of the tree that are shown at most."""
BAR = 10
"""Characters of a whole bar."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(part: float, length: int = BAR) -> str:
    """A bar in eighths of a character.

    >>> bar(0.5), bar(0.1), bar(2.0, 4), bar(float("nan"))
    ('█████', '█', '████', '')
    """
    if not math.isfinite(part):
        return ""
    eighths = round(8 * length * min(1.0, max(0.0, part)))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def tree_blocks(layers: Sequence[Layer], output: str) -> list[Block]:
    """The table that is a tree, and a drawing of what each call adds."""
    shown = chosen(layers)
    columns = [
        Column("submodule", kind="text"),
        Column("what comes out", kind="text"),
        Column("error", kind="percent"),
        Column("", kind="text"),
        Column("adds", kind="percent"),
        Column("to the error", kind="text"),
    ]
    rows = [row for place in shown for row in _rows(layers, place, shown)]
    adds = (
        f" Adds: part of the squared error of {output!r} that goes with the group average in the place of what comes "
        "out of a call, and not with it in the place of what goes in."
    )
    caption = (
        "In the order of the data flow. Error: of what comes out, beside its size; one block of the bar for each "
        f"factor of ten above 1e-8.{adds if output else ''}"
    )
    table = Table("Where the error comes from", columns, rows, caption, len(layers) - len(shown))
    how = Paragraph(caption, "How to read it", on=TERMINAL)
    adding = [one for place, one in enumerate(layers) if place in set(shown) and math.isfinite(one.adds)]
    if not any(abs(one.adds) > 0 for one in adding):
        return [table, how] if layers else [Paragraph("No submodule was called.")]
    text = "; ".join(f"{one.label}: {100 * one.adds:.3g} %" for one in adding[:12])
    height = max(1.6, 0.2 * len(adding) + 0.8)
    drawn = Figure("What each call adds", lambda ax: draw(adding, ax), text, height=min(height, 9.0), on=PAGE)
    return [table, how, drawn]


def chosen(layers: Sequence[Layer]) -> list[int]:
    """The places of the calls that are shown: those at the top, what is broken, and what they are inside of."""
    worth = {
        place: (one.depth > 1, -abs(one.adds) if math.isfinite(one.adds) else 0.0, not one.broken, place)
        for place, one in enumerate(layers)
        if one.depth <= 1 or one.broken or one.notes
    }
    kept: set[int] = set()
    for place in sorted(worth, key=lambda one: worth[one]):
        line = []
        above = place
        while above >= 0 and above not in kept:
            line.append(above)
            above = layers[above].parent
        if len(kept) + len(line) <= ROWS:
            kept.update(line)
    return sorted(kept)


def _rows(layers: Sequence[Layer], place: int, shown: Sequence[int]) -> list[list[Cell]]:
    """A row for the first tensor that comes out of a call, and further ones for the others."""
    layer = layers[place]
    head = _branch(layers, place, shown) + _name(layers, layer)
    adds: list[Cell] = [layer.adds if math.isfinite(layer.adds) else None, bar(layer.adds)]
    if not layer.outputs:
        return [[head, "passes its input on", None, "", *adds]]
    first, *others = sorted(layer.outputs, key=lambda one: -one.relative if math.isfinite(one.relative) else 0.0)
    rows: list[list[Cell]] = [[head, *_cells(first, several=bool(others)), *adds]]
    for one in [one for one in others if one.broken or one.how != "inferred"][:3]:
        rows.append([_branch(layers, place, shown, further=True), *_cells(one, several=True), None, ""])
    return rows


def _cells(one: Activation, *, several: bool) -> list[Cell]:
    name = f"{one.name}: " if several else ""
    decades = (math.log10(one.relative) + 8) / 8 if one.relative > 0 and math.isfinite(one.relative) else math.nan
    colour: Severity = "bad" if one.broken else "good"
    drawn = Verdict(bar(decades, 8) or " ", colour) if math.isfinite(one.relative) else ""
    return [f"{name}{one.label}", one.relative if math.isfinite(one.relative) else None, drawn]


def _name(layers: Sequence[Layer], layer: Layer) -> str:
    if not layer.path:
        return layer.kind
    above = layers[layer.parent].path if layer.parent >= 0 else ""
    own = layer.path.removeprefix(f"{above}.") if above else layer.path
    again = f" #{layer.count + 1}" if layer.count else ""
    return f"{own}{again} {layer.kind}"


def _branch(layers: Sequence[Layer], place: int, shown: Sequence[int], *, further: bool = False) -> str:
    """The lines that lead to a row of the tree."""
    parts = []
    here = place
    while layers[here].parent >= 0:
        last = not any(layers[one].parent == layers[here].parent and one > here for one in shown)
        if here == place:
            parts.append(("   " if last else "│  ") if further else ("└─ " if last else "├─ "))
        else:
            parts.append("   " if last else "│  ")
        here = layers[here].parent
    return "".join(reversed(parts)).replace(" ", "\u00a0")


@figure
def draw(layers: Sequence[Layer], ax: Axes) -> Any:
    """Bars of what each call adds, in the order of the data flow from the top."""
    parts = [100 * one.adds for one in layers]
    colours = [ALARM if abs(part) >= 10 else CALM for part in parts]
    places = range(len(layers))
    ax.barh(list(places), parts, color=colours)
    ax.set_yticks(list(places), ["\u00a0\u00a0" * one.depth + one.label for one in layers], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlabel("part of the squared error, %")
    return ax
