"""The answer of a page, as text: for the kinds of results that are no records yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from equiv_probe.results.verdict_words import beside_floor, errors, percent, times

__all__ = ["SEVERITY", "Headline", "beside_floor", "errors", "percent", "times"]

SEVERITY = ("broken", "above round-off", "unknown", "", "non-deterministic", "round-off")


@dataclass(frozen=True)
class Headline:
    """What the top of the page says.

    Attributes:
        about: name of the quantity.
        kind: the verdict's, for the colour.
        answer: whether it is broken.
        value: the number as text.
        unit: of it.
        span: its 95 % interval as text, or empty.
        meaning: what the number is.
        beside: comparisons, one sentence each.
        question: that it answers.
    """

    about: str
    kind: str
    answer: str
    value: str
    unit: str
    span: str
    meaning: str
    beside: list[str] = field(default_factory=list)
    question: str = "Is it broken?"
