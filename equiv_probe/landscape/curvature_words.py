"""Curvatures in words: which of the losses is the better conditioned, by how much, and under which definitions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.landscape.conditioning import KINDS, POSITIVE
from equiv_probe.report.cells import text_of
from equiv_probe.report.document import Column, Headline, Uncertain
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equiv_probe.estimation.estimates import Estimate
    from equiv_probe.landscape.curvature_estimates import LossCurvature
    from equiv_probe.report.document import Cell

FIRST = KINDS[0]
BLIND_SPOTS = [
    "other weights: curvature is that of one place, and changes in training",
    "other structures: error bars are over rotations and random vectors, not over data",
    "what an optimizer makes of it: condition numbers are about plain gradient descent, and momentum or the scaling of "
    "Adam change which directions are slow",
    "extreme eigenvalues without bias: the noise of finitely many rotations takes them outwards",
]
_MEANING = (
    "is the largest magnitude of an eigenvalue over the smallest of those that hold 99 % of all curvature "
    f"({FIRST}); about a minimum, the number of steps of plain gradient descent grows with it."
)
_REPORTED = (
    "Shen et al. (arXiv:2512.02303) report about 1000 for force fields: of the largest over the smallest positive "
    f"eigenvalue ({POSITIVE}), in one block of weights."
)


def headline(losses: Mapping[str, LossCurvature], ratios: Mapping[str, Estimate]) -> Headline:
    """The ratio of the condition numbers, under the first definition."""
    beside = [
        f"{name}: largest eigenvalue {shown(one.largest)}, κ = {shown(one.conditions[FIRST])}."
        for name, one in losses.items()
    ]
    beside += [
        f"{name} bends down somewhere, by {shown(one.smallest)}: these weights are no minimum of it."
        for name, one in losses.items()
        if one.smallest.high < 0 and abs(one.smallest.value) > 1e-6 * abs(one.largest.value)
    ]
    name, one = next(iter(losses.items()))
    value, about, unit, meaning = one.conditions[FIRST], name, f"κ({name})", f"κ {_MEANING}"
    answer = f"That takes both: here is {' and '.join(losses)} alone."
    if ratios:
        value, about, unit, answer = ratios[FIRST], "κ", "= κ(L_mean) / κ(L_equiv)", _better(ratios[FIRST])
        meaning = f"The ratio of the condition numbers κ: how many times worse L_mean is conditioned. {meaning}"
        beside += _other_definitions(ratios)
        if losses["L_mean"].sets == 1:
            beside.append("It is of one set of rotations: what others would change is not in the interval.")
        beside.append(_REPORTED)
    interval = (value.low, value.high) if value.low < value.high else (math.nan, math.nan)
    question = "Is one of the losses easier to lower?"
    return Headline(answer, value.value, unit, interval, meaning, beside, about=about, question=question)


def cell(estimate: Estimate) -> Cell:
    """A value with its standard error, where it has one."""
    value = estimate.value
    if math.isinf(value):
        return "∞"
    return Uncertain(value, estimate.stderr) if estimate.stderr > 1e-12 * abs(value) else value


def shown(estimate: Estimate) -> str:
    """The same in a sentence."""
    return text_of(cell(estimate), Column(""))


def plain(kind: str) -> str:
    """A definition as prose has it: its cut-off is a part of its name, no number of the report."""
    return kind.replace("1e-4", "10⁻⁴").replace("-", " ", 1)


def _better(ratio: Estimate) -> str:
    if ratio.low > 1:
        return "Yes, L_equiv: at these weights it is the better conditioned of the two."
    if ratio.high < 1:
        return "Yes, L_mean: at these weights it is the better conditioned of the two."
    return "That is not known: the ratio of their condition numbers may be one."


def _other_definitions(ratios: Mapping[str, Estimate]) -> list[str]:
    """The ratio under all definitions, and under which of them it is certainly not one."""
    listed = [f"{plain(kind)} {number(one.value)}" for kind, one in ratios.items() if math.isfinite(one.value)]
    kinds = {
        "above": [plain(kind) for kind, one in ratios.items() if one.low > 1],
        "below": [plain(kind) for kind, one in ratios.items() if one.high < 1],
    }
    ends = [f"certainly {side} one under {', '.join(found)}" for side, found in kinds.items() if found]
    certain = f" It is {' and '.join(ends)}." if ends else " Under none of them is it certainly different from one."
    return [f"Under each definition of κ the ratio is: {', '.join(listed)}.{certain}"] if listed else []
