"""What a diagnosis says: the verdict, the evidence, what to try, and what was not tried and why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from equiv_probe.diagnosis.attempts import MOST, attempt_blocks, what_is_left
from equiv_probe.diagnosis.finding import Attempt, Finding
from equiv_probe.diagnosis.output_error import OutputError, error_table
from equiv_probe.report.document import (
    TERMINAL,
    Column,
    Document,
    Figure,
    Headline,
    Paragraph,
    Section,
    Table,
    columns,
    method,
)
from equiv_probe.report.formatting import number
from equiv_probe.report.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from equiv_probe.report.document import Block, Cell, Severity

BLIND = (
    "a model that is wrong but equivariant",
    "a cause that no experiment has; add one: a file in equiv_probe/diagnosis",
)
_TELLING = ("graph", "grids", "numerics", "physics", "conventions", "group", "spectrum")


class Diagnosis(Record, frozen=True):
    """Why a model breaks symmetry, as far as experiments tell.

    Attributes:
        model: its name.
        source: what it was asked on.
        outputs: their symmetry errors, the worst first.
        findings: what experiments found, in the order in which they were tried.
        attempts: all experiments, in the order in which they were tried.
        protocol: how it was done.
        notes: what a reader must know.
    """

    kind: ClassVar[str] = "diagnosis"

    model: str
    source: str
    outputs: list[OutputError]
    findings: list[Finding]
    attempts: list[Attempt]
    protocol: dict[str, Any] = msgspec.field(default_factory=dict)
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def causes(self) -> list[Finding]:
        """What explains an error, or a part of it, the largest part first."""
        return [one for one in self.findings if one.kind == "cause" and one.state in {"explains", "partly"}]

    @property
    def verdict(self) -> str:
        """Names of the experiments that say what is wrong, the decisive one of each output, joined by ``" + "``.

        ``"nothing"`` where nothing is broken, ``"unexplained"`` where something is and no experiment says why.
        """
        return " + ".join(dict.fromkeys(one.experiment for one in self.decisive)) or (
            "unexplained" if self.broken else "nothing"
        )

    @property
    def broken(self) -> list[OutputError]:
        """Outputs with an error beyond rounding."""
        return [one for one in self.outputs if one.verdict != "round-off"]

    @property
    def decisive(self) -> list[Finding]:
        """For each broken output what says most: a cause, else the error's character, else what is broken beside."""
        if not self.broken:
            return [one for one in self.findings if one.kind == "beside"]
        found = []
        for output in self.broken:
            own = [one for one in self.findings if one.output in {output.name, ""}]
            whole = [one for one in own if one.state == "explains"]
            partly = [one for one in own if one.state == "partly"]
            ranked = [
                *(one for one in whole if one.kind == "cause"),
                *self._characters(whole),
                *(one for one in partly if one.kind == "cause"),
                *self._characters(partly),
                *(one for one in own if one.kind == "beside"),
            ]
            found += ranked[:1]
        return found

    def _characters(self, found: Sequence[Finding]) -> list[Finding]:
        """Those that say what kind of error it is, the most telling first: where it comes from, then its shape."""
        groups = {one.experiment: one.group for one in self.attempts}
        told = [one for one in reversed(found) if one.kind == "character"]  # what cost more says more
        return sorted(told, key=lambda one: (_TELLING.index(groups[one.experiment]), -round(one.part, 1)))

    def document(self) -> Document:
        """The verdict, the evidence, what to try, all experiments, and how it was done."""
        return Document(
            self.model,
            self.source,
            [
                self._headline(),
                *self._effects(),
                *self._what_to_try(),
                Section("What says so?", self._evidence()),
                Section("How large is it?", [error_table(self.outputs)]),
                Section("What else was tried?", attempt_blocks(self.attempts)),
                *method(self.protocol, self.notes, blind_spots=BLIND),
            ],
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row for each experiment."""
        return [{name: getattr(one, name) for name in one.__struct_fields__} for one in self.attempts]

    def _headline(self) -> Headline:
        decisive = self.decisive
        severity: Severity = "bad"
        if decisive:
            answer, meaning = _told(decisive[0]), _effect(decisive[0], self._unit(decisive[0]))
        elif self.broken:
            answer, meaning = "It is broken, and no experiment says why.", self.broken[0].sentence
        else:
            answer, meaning, severity = self._nothing(), "", "good"
        beside = [_told(one) for one in decisive[1:]]
        question = "Why is it broken?"
        return Headline(answer, meaning=meaning, beside=beside, severity=severity, question=question)

    def _nothing(self) -> str:
        precision = self.protocol.get("precision")
        beyond = f", beyond rounding in {precision}" if precision else ""
        return f"Nothing is broken that these experiments look for{beyond}."

    def _effects(self) -> list[Block]:
        """What a terminal has no other place for: how much goes, and the causes of further outputs."""
        decisive = self.decisive
        lines = [_effect(one, self._unit(one)) for one in decisive[:1]]
        lines += [f"{_told(one)} {_effect(one, self._unit(one))}".strip() for one in decisive[1:]]
        return [Paragraph(line, on=TERMINAL) for line in lines if line]

    def _what_to_try(self) -> list[Block]:
        known = {one.output for one in self.decisive if one.kind == "cause" and one.state == "explains"}
        # Where a cause is known, advice that only follows from the kind of error leads astray.
        asked = [one for one in self._shown() if one.advice and not (one.kind == "character" and one.output in known)]
        advice = {one.advice: one.experiment for one in reversed(asked)}
        lines = [Paragraph(text, f"Try, for {name}") for text, name in reversed(advice.items())]
        return [Section("What to try?", lines)] if lines else []

    def _shown(self) -> list[Finding]:
        """Findings that are worth telling, the decisive ones first."""
        decisive = self.decisive
        return [*decisive, *(one for one in self.findings if one.state != "excluded" and one not in decisive)]

    def _evidence(self) -> Sequence[Block]:
        found = self._shown()
        if not found:
            return [Paragraph("No experiment found anything.")]
        part = Column("of the error", kind="percent")
        heads = columns("experiment", "output", "before", "after", "unit", part)
        rows: list[list[Cell]] = [
            [one.experiment, one.output, one.before, one.after, self._unit(one), one.part] for one in found
        ]
        caption = (
            "Before and after: the error (root mean square) as it is, and with the change that the experiment makes; "
            "of the error: the part of its square that this removes. For a symmetry other than rotation: how much the "
            "output changes, and how much of that rounding explains."
        )
        in_words = [Paragraph(f"{one.sentence}.", _capital(one.experiment)) for one in found[len(self.decisive) :]]
        return [Table("Evidence", heads, rows, caption), *in_words, *self._figure()]

    def _figure(self) -> list[Figure]:
        """What experiments leave of the error of the first output that is broken."""
        of_it = self._of_the_worst()
        if len(of_it) < 2:
            return []
        name = self.broken[0].name
        text = f"How much of the squared error of {name} is left in each experiment; blue: more goes than by chance."
        height = 0.8 + 0.25 * min(len(of_it), MOST)
        return [Figure("What experiments leave of it", self.plot_left, text, height=height)]

    def _of_the_worst(self) -> list[Finding]:
        names = [one.name for one in self.broken[:1]]
        return [one for one in self.findings if one.output in names and math.isfinite(one.part)]

    def plot_left(self, ax: Axes | None = None) -> Axes:
        """How much of the squared error of the worst output each experiment leaves."""
        return what_is_left(self._of_the_worst(), ax)

    def _unit(self, finding: Finding) -> str:
        return next((one.unit for one in self.outputs if one.name == finding.output), "")


def _told(finding: Finding) -> str:
    if finding.state == "partly" and finding.kind == "character":
        return f"No single cause was found. {_capital(finding.sentence)}."
    lead = f"In part {finding.experiment}" if finding.state == "partly" else _capital(finding.experiment)
    return f"{lead}: {finding.sentence}."


def _effect(finding: Finding, unit: str) -> str:
    """What an experiment does to the error, in a sentence."""
    if finding.kind != "cause" or not math.isfinite(finding.part):
        return ""
    before, after = (f"{number(value)} {unit}".rstrip() for value in (finding.before, finding.after))
    return f"With that, the error goes from {before} to {after}: {number(100 * finding.part)} % of its square."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
