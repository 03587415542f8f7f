"""One number of several reports: each one's value with its interval, and how it differs from the first's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from equiv_probe.estimation.differences import NAN, Change, change, tested, welch
from equiv_probe.estimation.estimates import Estimate
from equiv_probe.results.pairing import Pairing

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from equiv_probe.results.report import Measured, Report

SAME = ("round-off", "non-deterministic")
"""Verdicts beneath which a difference means nothing."""
NUMBERS = {"√L_equiv": "equiv", "share": "share", "L_total": "total", "L_mean": "mean"}
"""What is compared, and the field of a decomposition that holds it."""


@dataclass(frozen=True)
class Entry:
    """One report's value in a contrast, with its 95 % interval."""

    report: str
    value: float
    low: float
    high: float
    verdict: str = ""
    change: Change = field(default_factory=Change)


@dataclass(frozen=True)
class Contrast:
    """One number of one quantity over all reports that have it.

    Attributes:
        quantity: its name.
        number: ``"√L_equiv"``, ``"share"``, ``"L_total"`` or ``"L_mean"``.
        unit: of the values.
        ratio: whether changes are ratios; otherwise they are differences, in ``unit``.
        entries: in the order of the reports, the first is what the others are held against.
    """

    quantity: str
    number: str
    unit: str
    ratio: bool
    entries: list[Entry]


def entries_of(having: Sequence[tuple[str, Report, Measured]], number: str) -> list[Entry]:
    """A number of every report that has it; the first of these is what the others are held against.

    Args:
        having: names, reports and their measurements of one quantity.
        number: one of :data:`NUMBERS`.
    """
    entries: list[Entry] = []
    base: tuple[Report, Measured] | None = None
    for name, report, m in having:
        value, low, high = _estimate(m, number)
        if not math.isfinite(value):
            continue
        if base is None:
            base = report, m
            entries.append(Entry(name, value, low, high, m.verdict))
            continue
        if number in {"√L_equiv", "share"} and m.verdict in SAME and base[1].verdict in SAME:
            against = Change(how="neither is above its floor")
        else:
            against = _against(base, (report, m), number)
        entries.append(Entry(name, value, low, high, m.verdict, against))
    return entries


def _estimate(m: Measured, number: str) -> tuple[float, float, float]:
    """Value and 95 % interval as the report has them; shares in percent."""
    if number == "√L_equiv":
        return m.rms, *m.rms_interval
    known = m.labelled
    if known is None:
        return NAN, NAN, NAN
    if number == "share":
        low, high = known.share_interval
        return 100 * known.share, 100 * low, 100 * high
    value, error = (known.total, known.total_stderr) if number == "L_total" else (known.mean, known.mean_stderr)
    found = Estimate.with_interval(value, error, known.structures - 1, "log")
    return found.value, found.low, found.high


def _against(base: tuple[Report, Measured], other: tuple[Report, Measured], number: str) -> Change:
    pairing = Pairing.of(list(base[0].structures), list(other[0].structures))
    sides = ((base, pairing.first), (other, pairing.second))
    samples = [_samples(report, keys, m.name, number) for (report, m), keys in sides]
    if all(len(one) > 1 for one in samples):
        found = change(samples[0], samples[1], ratio=number != "share")
        moved = sum(key in pairing.by_name for key in samples[0] if key in samples[1])
        if moved and found.how.startswith("paired"):
            found = replace(found, how=f"{found.how}, by name: {moved} differ in positions, cell or labels")
    else:
        found = _of_estimates(base[1], other[1], number)
    return _scaled(found, number)


def _scaled(found: Change, number: str) -> Change:
    """Roots of ratios of ``L_equiv``; shares in percent."""
    if number in {"L_total", "L_mean"}:
        return found
    ends = (found.value, found.low, found.high)
    value, low, high = (math.sqrt(x) for x in ends) if number == "√L_equiv" else (100 * x for x in ends)
    return replace(found, value=value, low=low, high=high)


def _of_estimates(base: Measured, other: Measured, number: str) -> Change:
    """For runs, which keep no structures, and for single structures: the estimates as if independent."""
    key = NUMBERS[number]
    holders = [(m, m) if number == "√L_equiv" else (m, m.labelled or m) for m in (base, other)]
    (a, da, na), (b, db, nb) = (
        (float(getattr(one, key)), float(getattr(one, f"{key}_stderr")), one.structures) for _, one in holders
    )
    ratio = number != "share"
    how = "not paired, from the estimates' own error bars"
    if ratio:
        if not (a > 0 and b > 0):
            return Change(how=f"{how}; no ratio, since an estimate is not above zero")
        a, da, b, db = math.log(a), da / a, math.log(b), db / b
    if min(na, nb) < 2:  # its error bar is over rotations, and says nothing of other structures or batches
        return tested(b - a, NAN, NAN, ratio=ratio, how="one structure or batch alone: no error bar over them")
    variance, dof = welch((da * da, db * db), (na, nb))
    return tested(b - a, variance, dof, ratio=ratio, how=how)


def _samples(
    report: Report, keys: Sequence[Hashable], quantity: str, number: str
) -> dict[Hashable, tuple[float, float]]:
    """``(a, b)`` by structure, of which the number is ``Σa / Σb``."""
    found = {}
    upper = "equiv" if number == "share" else NUMBERS[number]
    for key, record in zip(keys, report.structures, strict=True):
        values = record["quantities"].get(quantity)
        source = values if number == "√L_equiv" or values is None else values.get("labelled")
        if source is None:
            continue
        weight = source.get("weight")
        row = (source.get(upper), source.get("total") if number == "share" else 1.0)
        if weight and None not in row:
            found[key] = (row[0] * weight, row[1] * weight)
    return found
