"""One number of several reports: each one's value with its interval, and how it differs from the first's.

Values that stand side by side are over the same structures as the differences between them, so that they subtract
(or divide) to these: where reports have structures of their own, over those that all of them have. A report that
shares less than half with the others is compared by its own structures, not paired.
"""

from __future__ import annotations

import math
from dataclasses import replace as changed
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from equiv_probe.estimation.differences import NAN, Change, Sample, change, tested, welch
from equiv_probe.estimation.estimates import Estimate, Scale
from equiv_probe.report.record import Part
from equiv_probe.results.pairing import Pairing

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from equiv_probe.results.measured import Labelled, Measured
    from equiv_probe.results.report import Report

SAME = ("round-off", "non-deterministic")
"""Verdicts beneath which a difference means nothing."""
NUMBERS = {"√L_equiv": "equiv", "share": "share", "L_total": "total", "L_mean": "mean"}
"""What is compared, and the field of a decomposition that holds it."""


class Entry(Part, frozen=True):
    """One report's value in a contrast, with its 95 % interval.

    Attributes:
        report: its name.
        value: over ``structures``.
        low: end of its 95 % interval.
        high: end of its 95 % interval.
        verdict: of the report on the quantity.
        change: against the first report.
        structures: over how many (or batches of a run) value and change are; 0 where that is not known.
    """

    report: str
    value: float
    low: float
    high: float
    verdict: str = ""
    change: Change = msgspec.field(default_factory=Change)
    structures: int = 0

    def corrected(self, p: float) -> Entry:
        """With Holm's p value."""
        return replace(self, change=changed(self.change, p_holm=p))


class Contrast(Part, frozen=True):
    """One number of one quantity over all reports that have it.

    Attributes:
        quantity: its name.
        number: ``"√L_equiv"``, ``"share"``, ``"L_total"`` or ``"L_mean"``.
        unit: of the values.
        ratio: whether changes are ratios; otherwise they are differences, in ``unit``.
        entries: in the order of the reports, the first is what the others are compared with.
    """

    quantity: str
    number: str
    unit: str
    ratio: bool
    entries: list[Entry]

    def __post_init__(self) -> None:
        """Refuse a number that is none of those that are compared, and one of no report."""
        if self.number not in NUMBERS or not self.entries:
            raise ValueError(f"a contrast of {self.number[:40]!r} with {len(self.entries)} entries")


class Side:
    """One report's part in a contrast.

    Args:
        name: of the report.
        report: it.
        measured: what it has of the quantity.
        number: one of :data:`NUMBERS`.
        first: the report that it is compared with.
    """

    def __init__(self, name: str, report: Report, measured: Measured, number: str, first: Report) -> None:
        self.name, self.measured, self.number = name, measured, number
        records = list(report.structures)
        pairing = Pairing.of(list(first.structures), records)
        self.by_name = pairing.by_name
        self.samples = dict(self._samples(records, pairing.second))
        self.all = len(self.samples)

    @property
    def known(self) -> Measured | Labelled:
        """What holds the number."""
        return self.measured if self.number == "√L_equiv" else self.measured.labelled or self.measured

    @property
    def is_whole(self) -> bool:
        """Whether it is over all of its report's structures."""
        return len(self.samples) == self.all

    def keep(self, common: set[Hashable]) -> None:
        """Leave out what others do not have."""
        self.samples = {key: row for key, row in self.samples.items() if key in common}

    def estimate(self) -> tuple[float, float, int]:
        """Value, standard error and number of structures: the report's own, or over those that were kept."""
        if self.is_whole:
            name = NUMBERS[self.number]
            return getattr(self.known, name), getattr(self.known, f"{name}_stderr"), self.known.structures
        found = Sample.of(list(self.samples.values()))
        return found.value, math.sqrt(found.variance), len(self.samples)

    def entry(self, against: Change) -> Entry:
        """As it is shown: the report's own value and interval, or those over the structures that were kept."""
        return Entry(
            self.name, *self._shown(), self.measured.verdict, against, len(self.samples) or self.known.structures
        )

    def _shown(self) -> tuple[float, float, float]:
        if self.number == "√L_equiv" and self.is_whole:
            return self.measured.rms, *self.measured.rms_interval
        value, stderr, count = self.estimate()
        scale: Scale = "logit" if self.number == "share" else "log"
        found = Estimate.with_interval(value, stderr, count - 1, scale)
        if self.number == "share":
            known = self.measured.labelled
            low, high = known.share_interval if known and self.is_whole else (found.low, found.high)
            return 100 * value, 100 * low, 100 * high
        ends = (found.value, found.low, found.high)
        return ends if self.number != "√L_equiv" else tuple(math.sqrt(max(x, 0.0)) for x in ends)  # type: ignore[return-value]

    def _samples(
        self, records: Sequence[Mapping[str, Any]], keys: Sequence[Hashable]
    ) -> Iterator[tuple[Hashable, tuple[float, float]]]:
        """``(a, b)`` by structure, of which the number is ``Σa / Σb``."""
        upper = "equiv" if self.number == "share" else NUMBERS[self.number]
        for key, record in zip(keys, records, strict=True):
            values = record["quantities"].get(self.measured.name)
            source = values if self.number == "√L_equiv" or values is None else values.get("labelled")
            if source is None:
                continue
            weight = source.get("weight")
            row = (source.get(upper), source.get("total") if self.number == "share" else 1.0)
            if weight and None not in row:
                yield key, (row[0] * weight, row[1] * weight)


def entries_of(having: Sequence[tuple[str, Report, Measured]], number: str) -> list[Entry]:
    """A number (one of :data:`NUMBERS`) of every report that has it; the first is what the others are compared with."""
    known = [one for one in having if math.isfinite(_value(one[2], number))]
    if not known:
        return []
    base, *others = (Side(*one, number, known[0][1]) for one in known)
    paired = _paired(base, others)
    return [base.entry(Change()), *(one.entry(_against(base, one, paired)) for one in others)]


def _value(m: Measured, number: str) -> float:
    if number == "√L_equiv":
        return m.rms
    return NAN if m.labelled is None else float(getattr(m.labelled, NUMBERS[number]))


def _paired(base: Side, others: Sequence[Side]) -> list[Side]:
    """Those that share most of their structures; they and the first keep what all of them have."""
    common, paired = set(base.samples), [base]
    for one in others:
        shared = common & one.samples.keys()
        if len(shared) > 1 and all(2 * len(shared) >= side.all for side in (*paired, one)):
            common = shared
            paired.append(one)
    if len(paired) > 1:
        for one in paired:
            one.keep(common)
    return paired[1:]


def _against(base: Side, other: Side, paired: Sequence[Side]) -> Change:
    number, ratio = base.number, base.number != "share"
    if number in {"√L_equiv", "share"} and base.measured.verdict in SAME and other.measured.verdict in SAME:
        return Change(how="neither error is above its floor")
    if min(len(base.samples), len(other.samples)) < 2:
        return _scaled(_of_estimates(base.estimate(), other.estimate(), ratio=ratio), number)
    if other not in paired:
        alone: dict[Hashable, tuple[float, float]] = {("not paired", key): row for key, row in other.samples.items()}
        return _scaled(change(base.samples, alone, ratio=ratio), number)
    found = change(base.samples, other.samples, ratio=ratio)
    if not all(one.is_whole for one in (base, *paired)):
        counted = f"{len(base.samples)} structures"
        who = "both" if len(paired) == 1 else "all"
        how = found.how.replace(counted, f"{counted} that {who} have (of {base.all} and {other.all})", 1)
        found = changed(found, how=how)
    if moved := sum(key in other.by_name for key in other.samples):
        found = changed(found, how=f"{found.how}, by name: {moved} differ in positions, cell or labels")
    return _scaled(found, number)


def _scaled(found: Change, number: str) -> Change:
    """Roots of ratios of ``L_equiv``; shares in percent."""
    if number in {"L_total", "L_mean"}:
        return found
    ends = (found.value, found.low, found.high)
    value, low, high = (math.sqrt(x) for x in ends) if number == "√L_equiv" else (100 * x for x in ends)
    return changed(found, value=value, low=low, high=high)


def _of_estimates(base: tuple[float, float, int], other: tuple[float, float, int], *, ratio: bool) -> Change:
    """For runs, which keep no structures, and for single structures: the estimates as if independent."""
    (a, da, na), (b, db, nb) = base, other
    how = "not paired, from the error bars of both estimates"
    if ratio:
        if not (a > 0 and b > 0):
            return Change(how=f"{how}; no ratio, since an estimate is not above zero")
        a, da, b, db = math.log(a), da / a, math.log(b), db / b
    if min(na, nb) < 2:  # its error bar is over rotations, and says nothing of other structures or batches
        return tested(b - a, NAN, NAN, ratio=ratio, how="one structure or batch alone: no error bar over them")
    variance, dof = welch((da * da, db * db), (na, nb))
    return tested(b - a, variance, dof, ratio=ratio, how=how)
