"""The calls of a network as a tree with bars."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from equiv_probe.report.axes import ALARM, CALM, figure
from equiv_probe.report.document import PAGE, TERMINAL, Column, Figure, Paragraph, Table, Verdict, columns
from equiv_probe.report.formatting import bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from equiv_probe.diagnosis.layers.layer import Activation, Layer
    from equiv_probe.report.document import Block, Cell

ROWS = 60
"""Of the tree that are shown at most."""
DECADES = 8
"""Of the bar of an error, which begins at 1e-8."""
NEXT_TO_NOTHING = 1e-3
"""Part of the error below which all are shown alike."""


def tree_blocks(layers: Sequence[Layer], output: str) -> list[Block]:
    """The table that is a tree, and a drawing of what each call adds."""
    shown = chosen(layers)
    parts, bars = [Column(name, kind="percent") for name in ("error", "adds")], Column("", kind="bar")
    heads = columns("submodule", parts[0], bars, parts[1], bars, "what comes out")
    rows = [row for place in shown for row in _rows(layers, place, shown)]
    adds = (
        f" Adds: the part of the squared error of {output!r} that vanishes when the output of a call is replaced by "
        "its group average, beyond what vanishes when its input is."
    )
    caption = (
        "Calls in the order of the data flow. Error: the equivariance error of a call's output, relative to its size, "
        f"with one block of the bar for each factor of ten above 1e-8.{adds if output else ''}"
    )
    table = Table("Where the error comes from", heads, rows, caption, len(layers) - len(shown))
    how = Paragraph(caption, "How to read it", on=TERMINAL)
    adding = [one for place, one in enumerate(layers) if place in set(shown) and math.isfinite(one.adds)]
    if not any(abs(one.adds) > 0 for one in adding):
        return [table, how] if layers else [Paragraph("No submodule was called.")]
    text = "; ".join(f"{one.label}: {100 * one.adds:.3g} %" for one in adding if abs(one.adds) > NEXT_TO_NOTHING)
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
    adds: list[Cell] = [_part(layer.adds), bar(layer.adds)]
    if not layer.outputs:
        return [[head, None, "", *adds, "passes its input on"]]
    ranked = sorted(layer.outputs, key=lambda one: -one.relative if math.isfinite(one.relative) else 0.0)
    told = [one for one in ranked if one.broken or one.how not in {"inferred", "declared"}][:4]
    if len(told) < 2:
        return [[head, *_error(ranked[0]), *adds, _label(ranked[0])]]
    line = _branch(layers, place, shown, further=True)
    return [
        [head, None, "", *adds, Verdict(f"{len(ranked)} tensors", "bad")],
        *([f"{line}→\u00a0{one.name}", *_error(one), None, "", _label(one)] for one in told),
    ]


def _part(value: float) -> Cell:
    """A part of the error, as far as it matters."""
    if not math.isfinite(value):
        return None
    return value if abs(value) > NEXT_TO_NOTHING else "< 0.1 %"


def _error(one: Activation) -> list[Cell]:
    """The error beside the size, and a bar of its decades."""
    if not math.isfinite(one.relative):
        return [None, ""]
    return [one.relative, bar((math.log10(one.relative) + DECADES) / DECADES, DECADES) if one.relative > 0 else ""]


def _label(one: Activation) -> Verdict:
    return Verdict(one.nearest, "bad" if one.broken else "good")


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
