"""What a trace says: the tree of calls with their errors, what each adds, and where the error comes from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from equiv_probe.diagnosis.layers.carried import INVARIANT
from equiv_probe.diagnosis.layers.layer import Layer, TracedOutput
from equiv_probe.diagnosis.layers.tree import tree_blocks
from equiv_probe.report.document import Document, Headline, Listing, Section, Table, Verdict, columns, method
from equiv_probe.report.formatting import number, percent
from equiv_probe.report.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

MATTERS = 0.1
"""Part of the error that a call must add to be named."""
OPPOSED = 0.5
"""Part of the error that a layer must take away from it for layers to break symmetry against each other."""
MOST = 0.5
"""Part of what a call adds that the calls inside must add for it to be theirs."""
BLIND = (
    "code between the calls of submodules: what it adds is counted to the module whose code it is",
    "what a submodule takes from elsewhere than its arguments, which no patch replaces",
)


class Trace(Record, frozen=True):
    """Where in a network symmetry breaks.

    Attributes:
        model: its name.
        source: what it was traced on.
        output: whose error is explained; empty where none is.
        outputs: of the model.
        layers: calls of submodules, in the order in which they begin.
        not_called: modules that were not called.
        protocol: how it was done.
        notes: what a reader must know.
    """

    kind: ClassVar[str] = "trace"

    model: str
    source: str
    output: str
    outputs: list[TracedOutput]
    layers: list[Layer]
    not_called: list[str] = msgspec.field(default_factory=list)
    protocol: dict[str, Any] = msgspec.field(default_factory=dict)
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def broken(self) -> list[TracedOutput]:
        """Outputs with an error beyond rounding."""
        return [one for one in self.outputs if one.broken]

    @property
    def culprits(self) -> list[Layer]:
        """The innermost calls that add a tenth of the error at least, what adds most first.

        Where activation patching says nothing, the first call that is broken though nothing that goes in is.
        """
        if self.is_mixed:
            return self._first_broken()
        named = [
            (place, one)
            for place, one in enumerate(self.layers)
            if abs(one.adds) >= MATTERS and not self._is_of_those_inside(place)
        ]
        if named:
            return [one for _, one in sorted(named, key=lambda found: -abs(found[1].adds))]
        if not self.broken or any(math.isfinite(one.adds) for one in self.layers):
            return []
        return self._first_broken()

    @property
    def is_mixed(self) -> bool:
        """Whether layers break symmetry against each other: with one of them mended, more would be left of the error.

        Then parts of the error say nothing of single layers, as in a network without any symmetry.
        """
        return any(one.adds < -OPPOSED for one in self.layers)

    def _first_broken(self) -> list[Layer]:
        first = [p for p, one in enumerate(self.layers) if one.broken and not one.broken_before]
        return [self.layers[p] for p in first if not any(self.layers[q].parent == p for q in first)][:1]

    def _is_of_those_inside(self, place: int) -> bool:
        """Whether most of what a call adds is added by calls inside of it, or the same tensor comes out of one."""
        own = self.layers[place]
        inside = [one for one in self.layers if one.parent == place and math.isfinite(one.adds)]
        return any(abs(one.adds) >= MATTERS for one in inside) and (
            abs(own.adds - sum(one.adds for one in inside)) < MOST * abs(own.adds)
        )

    def document(self) -> Document:
        """Where it comes from, the tree, the outputs, and how it was done."""
        return Document(
            self.model,
            self.source,
            [
                self._headline(),
                Section("Where in the network?", tree_blocks(self.layers, self.output)),
                Section("How large is it?", [self._outputs()]),
                Section("What was not traced?", self._left_out()),
                *method(self.protocol, self.notes, blind_spots=BLIND),
            ],
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row for each tensor that comes out of a call."""
        return [
            {
                "path": layer.path,
                "call": layer.count,
                "kind": layer.kind,
                "depth": layer.depth,
                **{name: getattr(one, name) for name in one.__struct_fields__ if name != "shape"},
                "removed": layer.removed,
                "adds": layer.adds,
            }
            for layer in self.layers
            for one in layer.outputs
        ]

    def _headline(self) -> Headline:
        culprits, question = self.culprits, "Where is it broken?"
        if not self.broken:
            answer = "Nothing is broken: the outputs are equivariant to rounding."
            inside = [one for one in self.layers if one.broken]
            said = f"Broken inside, without an effect: {', '.join(one.label for one in inside[:3])}." if inside else ""
            return Headline(answer, meaning=said, severity="good", question=question)
        if self.is_mixed:
            first = "".join(f" The first to break is {one.label} ({one.kind})." for one in culprits)
            answer = f"It is broken in many layers, some against others: mending a single one may not help.{first}"
            return Headline(answer, severity="bad", question=question)
        first, *others = [self._said(one) for one in culprits] or ["It is broken, and no submodule stands out."]
        return Headline(first, beside=others, severity="bad", question=question)

    def _said(self, layer: Layer) -> str:
        inside = [one for one in self.layers if one.parent >= 0 and self.layers[one.parent] is layer]
        whole = any(one.outputs for one in inside)
        where = f"The code of {layer.label} ({layer.kind})" if whole else f"{layer.label} ({layer.kind})"
        broken = [one for one in layer.outputs if one.broken and math.isfinite(one.relative)]
        worst = max(broken, key=lambda one: one.relative, default=None)
        before = "what goes in is broken already" if layer.broken_before else "what goes in is equivariant"
        comes = ""
        if worst:
            kind = worst.nearest.removesuffix(", broken")
            comes = f", what comes out ({kind}) is off by {percent(worst.relative)}"
        adds = f" adds {number(100 * layer.adds)} % of the squared error of {self.output!r}" if self.output else ""
        if whole:
            comes += _like_vectors(inside)
        return f"{where}{adds}: {before}{comes}." if adds else f"{where} is the first to break: {before}{comes}."

    def _outputs(self) -> Table:
        heads = columns("output", "equivariance error", "floor", "size", "unit", "verdict")
        return Table(
            "Equivariance error of the outputs",
            heads,
            [[o.name, o.error, o.floor, o.size, o.unit, _verdict(o.broken)] for o in self.outputs],
        )

    def _left_out(self) -> list[Any]:
        strange = [
            f"{layer.label} {one.name}: {one.note}" for layer in self.layers for one in layer.outputs if one.note
        ]
        said = [f"{layer.label}: {note}" for layer in self.layers for note in layer.notes if "budget" not in note]
        waiting = sum("budget" in note for layer in self.layers for note in layer.notes)
        over = [f"{waiting} calls were not patched: the budget was spent"] if waiting else []
        lists = {"Not called": self.not_called, "Listed": [*strange, *said], "Not patched": over}
        return [Listing(f"{title}:", _shortened(items)) for title, items in lists.items() if items]


def _like_vectors(inside: Sequence[Layer]) -> str:
    """Where invariants come in threes inside of a module whose own code breaks symmetry: as a vector they are wrong."""
    found = [
        layer.label
        for layer in inside
        for one in layer.outputs
        if one.shape[-1:] == [3] and one.representation == INVARIANT and one.size > 0 and not one.broken
    ]
    if not found:
        return ""
    return f"; inside, {found[0]} gives three invariant numbers each, which are wrong as the components of a vector"


def _shortened(items: list[str], most: int = 20) -> list[str]:
    return items if len(items) <= most else [*items[:most], f"and {len(items) - most} more"]


def _verdict(broken: bool) -> Verdict:
    return Verdict("broken", "bad") if broken else Verdict("round-off", "good")
