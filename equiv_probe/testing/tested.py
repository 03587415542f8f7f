"""What a session of tests measured: every output of every model that was checked, as a result like any other."""

from __future__ import annotations

import math
from collections import Counter
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from equiv_probe.report.document import Column, Document, Headline, Section, Table, Verdict, method
from equiv_probe.report.record import Part, Record
from equiv_probe.testing.compared import Checked

if TYPE_CHECKING:
    from equiv_probe.report.document import Cell


class Tested(Part, frozen=True):
    """What one test checked.

    Attributes:
        test: its name.
        checks: of outputs.
    """

    test: str
    checks: list[Checked]


class TestedModels(Record, frozen=True):
    """What the tests of a session checked.

    Attributes:
        tests: in their order.
        protocol: versions.
    """

    kind: ClassVar[str] = "tests"

    tests: list[Tested]
    protocol: dict[str, Any] = msgspec.field(default_factory=dict)

    def document(self) -> Document:
        """How many checks failed, and every number."""
        checks = [one for test in self.tests for one in test.checks]
        wrong = sum(bool(one.wrong) for one in checks)
        counts = Counter(one.group for one in checks)
        groups = ", ".join(f"{count} under {group}" for group, count in counts.items())
        answer = (
            "Everything that was checked is equivariant, to what was allowed."
            if not wrong
            else f"{wrong} of {len(checks)} outputs that were checked {'is' if wrong == 1 else 'are'} not equivariant."
        )
        columns = [
            Column("test", kind="text"),
            Column("output", kind="text"),
            Column("group", kind="text"),
            Column("error"),
            Column("of the output", kind="percent"),
            Column("allowed"),
            Column("", kind="text"),
        ]
        rows: list[list[Cell]] = [
            [
                test.test,
                one.output,
                one.group,
                one.error,
                one.error / one.size if one.size > 0 else math.nan,
                one.allowed,
                Verdict("broken", "bad", one.wrong) if one.wrong else Verdict("equivariant", "good"),
            ]
            for test in self.tests
            for one in test.checks
        ]
        caption = (
            "Error: root mean square of how outputs for rotated, moved or reordered inputs, brought back, differ from "
            "that for the input as it is. Allowed: ten times what rounding explains, or the tolerance of the test."
        )
        return Document(
            "Equivariance tests",
            f"{len(self.tests)} test{'s' * (len(self.tests) != 1)}: {groups}",
            [
                Headline(answer, math.nan, "", (math.nan, math.nan), "", severity="bad" if wrong else "good"),
                Section("What was measured?", [Table("Equivariance", columns, rows, caption)]),
                *method(self.protocol, [], blind_spots=["what no test checks, and a wrong model that is equivariant"]),
            ],
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row for each output that was checked."""
        return [
            {"test": test.test, **{name: getattr(one, name) for name in one.__struct_fields__}}
            for test in self.tests
            for one in test.checks
        ]


def versions() -> dict[str, Any]:
    """Of what measured."""
    return {name: metadata.version(name) for name in ("equiv-probe", "torch")}
